"""Faults caused on purpose, and what must hold while they last."""
