"""Measure what a server still gets done while it is asked for more than it can do."""
