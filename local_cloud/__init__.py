"""What stands in for Modal and for the Hugging Face Hub on one machine: see README.md beside this file."""
