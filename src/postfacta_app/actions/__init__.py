"""Action items of an incident: owners, due dates and status."""
