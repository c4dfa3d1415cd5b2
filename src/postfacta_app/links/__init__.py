"""Links between incidents: related, duplicate of, follows."""
