"""Incidents taken out whole: as JSON, Markdown, or a line each."""
