"""PostFacta for software that a service may have: pools, httpx, pybreaker, arq and Celery, Starlette, OpenTelemetry's SDK.

Import from the module; it says which extra is missing, and none of the others needs that.
"""
