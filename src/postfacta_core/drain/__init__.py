"""End a process without a failed request."""
