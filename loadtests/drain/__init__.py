"""Stop real servers under load, and count what their clients noticed."""
