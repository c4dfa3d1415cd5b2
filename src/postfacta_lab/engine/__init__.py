"""What load, drain, chaos and the fault proxy have in common."""
