"""Middleware in pure ASGI, and `harden`, which composes it."""
