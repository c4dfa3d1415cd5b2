"""What Prometheus loads, rules and alerts, with a table of them for readers."""
