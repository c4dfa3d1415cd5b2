"""Incidents: what is recorded of them, and the states they move through."""
