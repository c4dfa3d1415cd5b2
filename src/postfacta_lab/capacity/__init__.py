"""What measured runs of load say about capacity."""
