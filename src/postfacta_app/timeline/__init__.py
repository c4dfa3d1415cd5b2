"""What happened in an incident, in order, and what people say about it."""
