"""The image of PostFacta, and what it is held to."""
