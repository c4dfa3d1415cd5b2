"""Post-mortems in revisions, and recurring contributing factors."""
