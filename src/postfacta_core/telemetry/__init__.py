"""Telemetry records what was observed: metrics, spans, log lines."""
