"""Incidents: their fields and status transitions."""
