"""Redact secrets in a signal before it is hashed and stored, since facts cannot be changed later."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from pydantic import JsonValue

from postfacta_core.telemetry.redaction import REDACTED, redact, redact_text

__all__ = ["without_secrets"]

_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def without_secrets(value: JsonValue, keys: frozenset[str] = frozenset()) -> JsonValue:
    """Redact the values of secret keys, and secrets in any text, at any depth.

    A key is secret if the service's own log would redact it: `password`, `X-Api-Key`, `accessToken`.

    Args:
        value: JSON, not nested beyond Python's recursion limit.
        keys: Further secret keys, in lower case, with `_` for `-`.
    """
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, list):
        return [without_secrets(item, keys) for item in value]
    if isinstance(value, dict):
        return {
            name: REDACTED if item is not None and _is_secret(name, keys) else without_secrets(item, keys)
            for name, item in value.items()
        }
    return value


# The same few names occur in every signal.
@lru_cache(maxsize=1024)
def _is_secret(name: str, keys: frozenset[str]) -> bool:
    plain = _CAMEL.sub("_", name).lower().replace("-", "_")
    return plain in keys or redact({plain: "x"})[plain] == REDACTED
