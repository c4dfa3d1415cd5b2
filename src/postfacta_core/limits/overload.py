"""The limiter that `harden` and `AdaptiveLimiter` ask, for what is served in another way."""

from __future__ import annotations

from ._overload import Ending as Ending, OverloadLimiter as OverloadLimiter
