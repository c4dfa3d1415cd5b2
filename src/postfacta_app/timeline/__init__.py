"""The timeline of an incident, its edits and annotations."""
