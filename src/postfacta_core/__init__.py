"""Make an ASGI service survive deploys, overload, slow clients and sick dependencies.

The layout, from the top down; each floor imports only the floors below it:

* `asgi`: serves. Scope, receive, send; `harden` composes the middlewares.
* `aio`: runs. Tasks, timers, sockets.
* `policy` decides, `telemetry` records. No await, no I/O.
* `errors`, `clock`, `events`, `context`: the ground, words that all the others share.
"""

from __future__ import annotations

from .aio.deadline import current_deadline, time_limit
from .aio.health import HealthRegistry
from .aio.lifecycle import Lifecycle
from .context import RequestContext, current_request
from .errors import DeadlineExceededError, RejectedError, ResilienceError
from .policy.deadline import Deadline
from .policy.lifecycle import DrainLimits
from .policy.retry import Backoff

__all__ = [
    "Backoff",
    "Deadline",
    "DeadlineExceededError",
    "DrainLimits",
    "HealthRegistry",
    "Lifecycle",
    "RejectedError",
    "RequestContext",
    "ResilienceError",
    "current_deadline",
    "current_request",
    "time_limit",
]
