"""Load on a running service, in open loop, and a verdict on how its users fared."""
