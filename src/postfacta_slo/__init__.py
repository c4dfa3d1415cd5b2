"""A service's objectives: as records, then as files for Prometheus, Grafana and readers."""
