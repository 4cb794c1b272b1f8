"""Containers: what runs the code of deployed Apps, and for how long."""
