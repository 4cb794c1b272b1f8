"""Pulumi's side: one dynamic resource a file. The module paths of the provider classes are part of people's state."""
