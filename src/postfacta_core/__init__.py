"""Make an ASGI service survive deploys, overload, slow clients and sick dependencies.

The layout, from the top down; each floor imports only the floors below it:

* `asgi`: serves. Scope, receive, send; `harden` composes the middlewares.
* `aio`: runs. Tasks, timers, sockets.
* `policy` decides, `telemetry` records. No await, no I/O.
* `errors`, `clock`, `events`, `context`: the ground, words that all the others share.
"""

from __future__ import annotations

from .aio.health import HealthRegistry
from .context import RequestContext, current_request
from .errors import DeadlineExceededError, RejectedError, ResilienceError
from .policy.retry import Backoff

__all__ = [
    "Backoff",
    "DeadlineExceededError",
    "HealthRegistry",
    "RejectedError",
    "RequestContext",
    "ResilienceError",
    "current_request",
]
