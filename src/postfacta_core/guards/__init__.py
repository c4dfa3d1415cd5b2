"""Guards call a function, refuse to, or call it again; what decides stands beside what runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..face import lazy

if TYPE_CHECKING:
    from ._circuit import CircuitConfig, CircuitState, CircuitStatistics
    from ._guard import Block, BlockGuard, Guard, On, Outcome, Registry, Runner, registry
    from .adaptive import AdaptiveLimiter
    from .breaker import CircuitBreaker
    from .budget import RetryBudget
    from .bulkhead import Bulkhead
    from .fallback import Answer, Fallback
    from .hedge import Hedge
    from .pipeline import Pipeline
    from .retry import Retry
    from .throttle import Throttle
    from .timeout import Timeout
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "_circuit": ("CircuitConfig", "CircuitState", "CircuitStatistics"),
            "_guard": (
                "Block",
                "BlockGuard",
                "Guard",
                "On",
                "Outcome",
                "Registry",
                "Runner",
                "registry",
            ),
            "adaptive": ("AdaptiveLimiter",),
            "breaker": ("CircuitBreaker",),
            "budget": ("RetryBudget",),
            "bulkhead": ("Bulkhead",),
            "fallback": ("Answer", "Fallback"),
            "hedge": ("Hedge",),
            "pipeline": ("Pipeline",),
            "retry": ("Retry",),
            "throttle": ("Throttle",),
            "timeout": ("Timeout",),
        },
    )

__all__ = [
    "AdaptiveLimiter",
    "Answer",
    "Block",
    "BlockGuard",
    "Bulkhead",
    "CircuitBreaker",
    "CircuitConfig",
    "CircuitState",
    "CircuitStatistics",
    "Fallback",
    "Guard",
    "Hedge",
    "On",
    "Outcome",
    "Pipeline",
    "Registry",
    "Retry",
    "RetryBudget",
    "Runner",
    "Throttle",
    "Timeout",
    "registry",
]
