"""Ratios measured in one run: each script compares two commands in turn on the same machine and prints the median ratio."""
