"""Compare a caller's value with a secret, or with all that are valid now."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Mapping

Secret = str | Callable[[], Collection[str]]
"""A secret, empty for none; or a function that returns all that hold now, so that a rotation needs no restart."""


def knows(secret: Secret, given: bytes) -> bool:
    """Return whether one of the secrets was given; each is compared in constant time."""
    held = secret() if callable(secret) else (secret,)
    return any(bool(one) and hmac.compare_digest(given, one.encode()) for one in held)


def bears(headers: Mapping[bytes, bytes], secret: Secret) -> bool:
    """Return whether a request brings one of the secrets as its bearer token."""
    # The scheme's name is case-insensitive (RFC 9110, section 11.1).
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    return scheme.lower() == b"bearer" and knows(secret, given.strip())
