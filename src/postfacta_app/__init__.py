"""The reference app: an incident service on PostgreSQL, hardened by `postfacta_core`."""
