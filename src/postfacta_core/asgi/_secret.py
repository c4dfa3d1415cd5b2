"""Compare a caller's value with a secret, or with all that are valid now."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection

Secret = str | Callable[[], Collection[str]]
"""A secret, empty for none; or a function that returns all that hold now, so that a rotation needs no restart."""


def knows(secret: Secret, given: bytes) -> bool:
    """Return whether one of the secrets was given; each is compared in constant time."""
    held = secret() if callable(secret) else (secret,)
    return any(bool(one) and hmac.compare_digest(given, one.encode()) for one in held)
