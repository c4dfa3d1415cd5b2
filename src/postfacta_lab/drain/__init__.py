"""Stops a service under load, or restarts it, and counts what its clients noticed."""
