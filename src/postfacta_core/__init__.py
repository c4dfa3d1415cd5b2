"""Make an ASGI service survive deploys, overload, slow clients and failing dependencies.

Each folder is a capability, and imports only what stands below it; what decides stands beside what runs it, in modules
with an underscore that await nothing:

* `asgi` serves: `harden` composes the middlewares.
* `drain` ends a process; `guards` call a function, refuse to, or call it again.
* `limits`: how many, how often. `deadlines`: until when. `health`: how the process is. `telemetry`: what was observed.
* `errors`, `clock`, `events`, `context`, `backoff`: the ground, words that all the others share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._face import lazy

if TYPE_CHECKING:
    from ._version import __version__ as __version__
    from .backoff import Backoff as Backoff
    from .context import RequestContext as RequestContext, current_request as current_request
    from .deadlines._deadline import Deadline as Deadline
    from .deadlines.present import current_deadline as current_deadline
    from .deadlines.requests import time_limit as time_limit
    from .drain._course import DrainLimits as DrainLimits
    from .drain.lifecycle import Lifecycle as Lifecycle
    from .errors import (
        CircuitOpenError as CircuitOpenError,
        DeadlineExceededError as DeadlineExceededError,
        RejectedError as RejectedError,
        ResilienceError as ResilienceError,
    )
    from .events import Mode as Mode
    from .guards._circuit import CircuitConfig as CircuitConfig
    from .guards.breaker import CircuitBreaker as CircuitBreaker
    from .guards.budget import RetryBudget as RetryBudget
    from .guards.bulkhead import Bulkhead as Bulkhead
    from .guards.fallback import Fallback as Fallback
    from .guards.hedge import Hedge as Hedge
    from .guards.outgoing import Outgoing as Outgoing
    from .guards.pipeline import Pipeline as Pipeline
    from .guards.retry import Retry as Retry
    from .guards.timeout import Timeout as Timeout
    from .health.registry import HealthRegistry as HealthRegistry
    from .limits._overload import (
        OverloadConfig as OverloadConfig,
        OverloadLimiter as OverloadLimiter,
        Priority as Priority,
    )
    from .limits.rate import RateLimiter as RateLimiter
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "guards.breaker": ("CircuitBreaker",),
            "guards.bulkhead": ("Bulkhead",),
            "deadlines.requests": ("time_limit",),
            "deadlines.present": ("current_deadline",),
            "backoff": ("Backoff",),
            "guards.fallback": ("Fallback",),
            "health.registry": ("HealthRegistry",),
            "guards.hedge": ("Hedge",),
            "drain.lifecycle": ("Lifecycle",),
            "guards.outgoing": ("Outgoing",),
            "guards.pipeline": ("Pipeline",),
            "limits.rate": ("RateLimiter",),
            "guards.retry": ("Retry",),
            "guards.timeout": ("Timeout",),
            "context": ("RequestContext", "current_request"),
            "errors": ("CircuitOpenError", "DeadlineExceededError", "RejectedError", "ResilienceError"),
            "events": ("Mode",),
            "guards._circuit": ("CircuitConfig",),
            "deadlines._deadline": ("Deadline",),
            "drain._course": ("DrainLimits",),
            "limits._overload": ("OverloadConfig", "OverloadLimiter", "Priority"),
            "guards.budget": ("RetryBudget",),
            "_version": ("__version__",),
        },
    )
