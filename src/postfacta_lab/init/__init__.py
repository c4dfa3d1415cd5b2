"""Writes a suite for a service that runs: a mix of requests, tests, a workflow."""
