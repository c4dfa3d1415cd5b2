"""Guards call a function, refuse to, or call it again; what decides stands beside what runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..face import lazy

if TYPE_CHECKING:
    from ._circuit import CircuitConfig
    from ._guard import Block, BlockGuard, Guard, On, Outcome, registry
    from .adaptive import AdaptiveLimiter
    from .breaker import CircuitBreaker
    from .budget import RetryBudget
    from .bulkhead import Bulkhead
    from .fallback import Fallback
    from .hedge import Hedge
    from .pipeline import Pipeline
    from .rate_limiter import RateLimiter
    from .retry import Retry
    from .timeout import Timeout
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "_circuit": ("CircuitConfig",),
            "_guard": (
                "Block",
                "BlockGuard",
                "Guard",
                "On",
                "Outcome",
                "registry",
            ),
            "adaptive": ("AdaptiveLimiter",),
            "breaker": ("CircuitBreaker",),
            "budget": ("RetryBudget",),
            "bulkhead": ("Bulkhead",),
            "fallback": ("Fallback",),
            "hedge": ("Hedge",),
            "pipeline": ("Pipeline",),
            "rate_limiter": ("RateLimiter",),
            "retry": ("Retry",),
            "timeout": ("Timeout",),
        },
    )

__all__ = [
    "AdaptiveLimiter",
    "Block",
    "BlockGuard",
    "Bulkhead",
    "CircuitBreaker",
    "CircuitConfig",
    "Fallback",
    "Guard",
    "Hedge",
    "On",
    "Outcome",
    "Pipeline",
    "RateLimiter",
    "Retry",
    "RetryBudget",
    "Timeout",
    "registry",
]
