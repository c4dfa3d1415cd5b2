"""Durations of the phases of incidents."""
