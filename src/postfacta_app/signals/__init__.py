"""Signals: what is reported from outside, stored once, attached to incidents."""
