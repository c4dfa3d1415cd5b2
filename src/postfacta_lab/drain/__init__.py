"""Stops a service under load, and counts what its clients noticed."""
