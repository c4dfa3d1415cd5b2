"""Signals: facts from external sources, stored once and attached to incidents."""
