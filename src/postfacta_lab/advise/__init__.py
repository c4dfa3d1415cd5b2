"""Advise settings of a service by what it measured of itself."""
