"""Compare what a caller gave with a secret, or with those that hold at this moment."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection

__all__ = ["Secret", "knows"]

Secret = str | Callable[[], Collection[str]]
"""A secret, empty for none; or a function that returns all that hold now, so that a rotation needs no restart."""


def knows(secret: Secret, given: bytes) -> bool:
    """Tell whether one of the secrets was given; each is compared in a time that tells nothing of it."""
    held = secret() if callable(secret) else (secret,)
    return any(bool(one) and hmac.compare_digest(given, one.encode()) for one in held)
