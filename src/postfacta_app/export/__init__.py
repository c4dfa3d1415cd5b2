"""Export of incidents as JSON, Markdown or NDJSON."""
