"""A real PostgreSQL as a child process, for the demo, the tests and the chaos suite."""
