"""What revisions of the schema are held to."""
