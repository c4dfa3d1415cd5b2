"""Guards call a function, refuse to, or call it again; what decides stands beside what runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._face import lazy

if TYPE_CHECKING:
    from ._circuit import (
        CircuitConfig as CircuitConfig,
        CircuitState as CircuitState,
        CircuitStatistics as CircuitStatistics,
    )
    from ._delay import QuantileDelay as QuantileDelay
    from ._guard import (
        BlockGuard as BlockGuard,
        Guard as Guard,
        On as On,
        Outcome as Outcome,
        Registry as Registry,
        Runner as Runner,
        registry as registry,
    )
    from .adaptive import AdaptiveLimiter as AdaptiveLimiter
    from .breaker import CircuitBreaker as CircuitBreaker
    from .budget import RetryBudget as RetryBudget
    from .bulkhead import Bulkhead as Bulkhead
    from .fallback import Answer as Answer, Fallback as Fallback
    from .hedge import Hedge as Hedge
    from .pipeline import Pipeline as Pipeline
    from .retry import Retry as Retry
    from .throttle import Throttle as Throttle
    from .timeout import Timeout as Timeout
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "_circuit": ("CircuitConfig", "CircuitState", "CircuitStatistics"),
            "_delay": ("QuantileDelay",),
            "budget": ("RetryBudget",),
            "adaptive": ("AdaptiveLimiter",),
            "breaker": ("CircuitBreaker",),
            "bulkhead": ("Bulkhead",),
            "fallback": ("Answer", "Fallback"),
            "hedge": ("Hedge",),
            "_guard": ("BlockGuard", "Guard", "On", "Outcome", "Registry", "Runner", "registry"),
            "pipeline": ("Pipeline",),
            "retry": ("Retry",),
            "throttle": ("Throttle",),
            "timeout": ("Timeout",),
        },
    )
