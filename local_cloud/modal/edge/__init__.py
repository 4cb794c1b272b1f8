"""The HTTP edge: one loopback port per Server, in front of its containers."""
