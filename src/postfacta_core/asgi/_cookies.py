"""Refuse cookies that the standard library of some Pythons reads in quadratic time (CVE-2024-7592).

`http.cookies`, through which Starlette and others read cookies, searches the rest of a quoted value
anew after each backslash: one header of 31,000 backslashes takes 5.5 s of the event loop, before
authentication.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final

# The patch releases with the cure, by minor version; from 3.13 on there is none without it.
_CURED: Final = {11: 10, 12: 6}
_REPAIRED: Final = _CURED.get(sys.version_info.minor, 0)
IS_SLOW: Final = sys.version_info.micro < _REPAIRED
"""Whether this Python's parser is the slow one."""

SLOW_COOKIES_WARNING: Final = (
    f"Python {'.'.join(map(str, sys.version_info[:3]))} reads quoted cookies in quadratic time"
    " (CVE-2024-7592): those with many backslashes are refused with 431. Python"
    f" 3.{sys.version_info.minor}.{_REPAIRED} has the cure"
)
"""What is logged at start where the parser is slow."""

# Backslashes times length: 100 in the largest cookie that each browser keeps (RFC 6265, section
# 6.1, 4,096 bytes). That takes 5 ms at most. A large JSON document that Python itself has quoted is
# refused too: the price until Python is updated.
_MOST: Final = 100 * 4096


def are_costly(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a `Cookie` header may hold the event loop."""
    return any(
        name == b"cookie" and b'"' in value and value.count(b"\\") * len(value) > _MOST
        for name, value in headers
    )
