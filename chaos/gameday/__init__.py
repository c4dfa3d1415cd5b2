"""A game day: cause each fault that there is an alert for, and see whether the alert does what it is for."""
