"""Load, drain, chaos and a fault proxy for any service, which they know by its address alone."""
