"""How long the phases of incidents took, as far as that is known."""
