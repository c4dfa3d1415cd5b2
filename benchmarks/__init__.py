"""What the hardening costs a request, measured by ratio in one run."""
