"""The state of objectives: asked of a Prometheus, reported, drawn, judged by a policy."""
