"""Policies decide: pure functions and state machines without await or I/O."""
