"""Accounts, sign-in, tokens, and the authentication of every request."""
