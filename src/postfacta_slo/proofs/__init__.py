"""What promtool runs: unit tests that each alert fires in time, and is silent when it should be."""
