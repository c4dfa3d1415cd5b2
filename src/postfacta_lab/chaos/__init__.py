"""Faults on purpose, under load, with a verdict on what users went through."""
