"""Decide how many run at once, and how often a caller may ask."""
