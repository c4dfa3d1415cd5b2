"""Make an ASGI service survive deploys, overload, slow clients and sick dependencies.

The layout, from the top down; each floor imports only the floors below it:

* `asgi`: serves. Scope, receive, send; `harden` composes the middlewares.
* `aio`: runs. Tasks, timers, sockets.
* `policy` decides, `telemetry` records. No await, no I/O.
* `errors`, `clock`, `events`, `context`: the ground, words that all the others share.
"""

from __future__ import annotations

from .aio.breaker import CircuitBreaker
from .aio.bulkhead import Bulkhead
from .aio.deadline import current_deadline, time_limit
from .aio.fallback import Fallback
from .aio.health import HealthRegistry
from .aio.hedge import Hedge
from .aio.lifecycle import Lifecycle
from .aio.outgoing import Outgoing
from .aio.pipeline import Pipeline
from .aio.ratelimit import RateLimiter
from .aio.retry import Retry
from .aio.timeout import Timeout
from .context import RequestContext, current_request
from .errors import CircuitOpenError, DeadlineExceededError, RejectedError, ResilienceError
from .events import Mode
from .policy.breaker import CircuitConfig
from .policy.deadline import Deadline
from .policy.lifecycle import DrainLimits
from .policy.overload import OverloadConfig, OverloadLimiter
from .policy.retry import Backoff, RetryBudget
from .policy.waiting import Priority

__all__ = [
    "Backoff",
    "Bulkhead",
    "CircuitBreaker",
    "CircuitConfig",
    "CircuitOpenError",
    "Deadline",
    "DeadlineExceededError",
    "DrainLimits",
    "Fallback",
    "HealthRegistry",
    "Hedge",
    "Lifecycle",
    "Mode",
    "Outgoing",
    "OverloadConfig",
    "OverloadLimiter",
    "Pipeline",
    "Priority",
    "RateLimiter",
    "RejectedError",
    "RequestContext",
    "ResilienceError",
    "Retry",
    "RetryBudget",
    "Timeout",
    "current_deadline",
    "current_request",
    "time_limit",
]
