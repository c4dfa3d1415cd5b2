"""What a service promises, as records and as the files that Prometheus, Grafana and people read."""
