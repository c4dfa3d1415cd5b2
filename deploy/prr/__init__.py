"""The readiness review: what is asked before a release, what answers it, and what was seen."""
