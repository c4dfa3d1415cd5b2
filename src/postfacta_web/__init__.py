"""PostFacta for what most web services write for themselves.

Versions and idempotency keys, strict JSON, secrets that change, kill switches, sign-in attempts,
tokens, stale answers.

Import from the module; it says which extra is missing. Each works without `harden`.
"""
