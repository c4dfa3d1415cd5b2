"""Report how the process is."""
