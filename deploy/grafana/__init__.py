"""Grafana dashboards of a service on `postfacta_core`, and what writes them."""
