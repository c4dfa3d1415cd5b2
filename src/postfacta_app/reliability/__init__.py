"""Service information, objectives and metrics."""
