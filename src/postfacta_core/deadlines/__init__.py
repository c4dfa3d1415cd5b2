"""How long work may take: of a request, and of what it calls."""
