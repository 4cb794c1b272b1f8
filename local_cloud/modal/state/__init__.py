"""What exists in the local cloud: one SQLite database, one of its own for secrets, and plain files."""
