"""Guards call a function, refuse to, or call it again; what decides stands beside what runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._face import lazy

if TYPE_CHECKING:
    from ._circuit import CircuitConfig, CircuitState, CircuitStatistics
    from ._delay import FixedDelay, HedgeDelay, QuantileDelay
    from ._guard import BlockGuard, Guard, Runner
    from ._outcome import On, Outcome
    from ._registry import Listed, Registry, registry
    from .adaptive import AdaptiveLimiter
    from .breaker import CircuitBreaker
    from .budget import RetryBudget
    from .bulkhead import Bulkhead
    from .fallback import Answer, Fallback
    from .hedge import Hedge
    from .outgoing import Outgoing
    from .pipeline import Pipeline
    from .retry import Retry
    from .throttle import Throttle
    from .timeout import Timeout
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "_circuit": ("CircuitConfig", "CircuitState", "CircuitStatistics"),
            "_delay": ("FixedDelay", "HedgeDelay", "QuantileDelay"),
            "_outcome": ("On", "Outcome"),
            "budget": ("RetryBudget",),
            "_registry": ("Listed", "Registry", "registry"),
            "adaptive": ("AdaptiveLimiter",),
            "breaker": ("CircuitBreaker",),
            "bulkhead": ("Bulkhead",),
            "fallback": ("Answer", "Fallback"),
            "hedge": ("Hedge",),
            "outgoing": ("Outgoing",),
            "_guard": ("BlockGuard", "Guard", "Runner"),
            "pipeline": ("Pipeline",),
            "retry": ("Retry",),
            "throttle": ("Throttle",),
            "timeout": ("Timeout",),
        },
    )

__all__ = [
    "AdaptiveLimiter",
    "Answer",
    "BlockGuard",
    "Bulkhead",
    "CircuitBreaker",
    "CircuitConfig",
    "CircuitState",
    "CircuitStatistics",
    "Fallback",
    "FixedDelay",
    "Guard",
    "Hedge",
    "HedgeDelay",
    "Listed",
    "On",
    "Outcome",
    "Outgoing",
    "Pipeline",
    "QuantileDelay",
    "Registry",
    "Retry",
    "RetryBudget",
    "Runner",
    "Throttle",
    "Timeout",
    "registry",
]
