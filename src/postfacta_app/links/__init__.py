"""How incidents hang together: related, duplicate of, follows."""
