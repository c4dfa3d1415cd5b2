"""What Grafana loads: panels, boards, and the dashboard of objectives."""
