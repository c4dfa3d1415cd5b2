"""PostFacta for software that a service may have.

Pools, clients, servers, frameworks, tokens, secrets, jobs, tracing.

Import from the module; it says which extra is missing, and none of the others needs that.
"""
