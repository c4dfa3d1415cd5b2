"""Load on a running service, known by its address alone."""
