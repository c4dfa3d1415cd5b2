"""What a service promises: as records, then as files for Prometheus, Grafana and people."""
