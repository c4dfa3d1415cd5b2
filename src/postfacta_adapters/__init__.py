"""PostFacta for software of others that a service may have.

Pools, clients, servers, stores of counts, jobs, tracing.

Import from the module; it says which extra is missing, and none of the others needs that.
"""
