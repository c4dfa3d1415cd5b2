"""What is wrong for a setting, by its kind, and how a setting is described."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from postfacta_core.asgi import (
    Receive,
    Scope,
    Send,
)
from postfacta_core.events import Mode

__all__ = [
    "APP",
    "BYTES",
    "CLOCK",
    "COUNT",
    "COUNT_FROM_ZERO",
    "COUNT_OR_NONE",
    "ERRORS",
    "FLAG",
    "FROM_ONE",
    "FROM_ZERO",
    "FROM_ZERO_OR_INF",
    "FUNCTION",
    "FUNCTION_OR_NONE",
    "JITTER",
    "MODE",
    "NAME",
    "OBJECT",
    "OBSERVED",
    "OBSERVER",
    "PATH",
    "PREFIX",
    "RATE",
    "RATES",
    "SECONDS",
    "SECONDS_OR_INF",
    "SECONDS_OR_NONE",
    "SECRET",
    "SECRET_TEXT",
    "TEXT",
    "TEXTS",
    "Setting",
    "app",
    "check",
    "sync_check",
]

Wrong = tuple[object, ...]

SECRET_TEXT: Final = "hunter2"  # noqa: S105 - what no error may show


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer nothing."""


async def check() -> None:
    """Pass."""


def sync_check() -> None:
    """Pass, while the event loop stands still."""


# What is wrong, by kind.
NAME: Final[Wrong] = (3, None, "", "two words", "x" * 65, b"billing", True)
MODE: Final[Wrong] = ("banana", "ENFORCE", "", 1, None, True)
SECONDS: Final[Wrong] = (0, -1, -0.5, math.nan, math.inf, "30s", "5", None, True, b"5", [5])
SECONDS_OR_INF: Final[Wrong] = (0, -1, math.nan, "30s", None, True)
SECONDS_OR_NONE: Final[Wrong] = (0, -1, math.nan, math.inf, "30s", True)
FROM_ZERO: Final[Wrong] = (-1, -0.5, math.nan, math.inf, "30s", None, True)
FROM_ZERO_OR_INF: Final[Wrong] = (-1, math.nan, "30s", None, True)
COUNT: Final[Wrong] = (0, -1, 1.5, math.nan, math.inf, "3", None, True)
COUNT_FROM_ZERO: Final[Wrong] = (-1, 1.5, math.nan, math.inf, "3", None, True)
COUNT_OR_NONE: Final[Wrong] = (0, -1, 1.5, math.nan, math.inf, "3", True)
BYTES: Final[Wrong] = (-1, 1.5, math.nan, "1MB", None, True)
RATE: Final[Wrong] = (0, -0.1, 1.1, 50, math.nan, "50%", None, True)
JITTER: Final[Wrong] = (-0.1, 1.0, math.nan, math.inf, "0.2", None, True)
FROM_ONE: Final[Wrong] = (0.99, -1, math.nan, math.inf, "2", None, True)
FLAG: Final[Wrong] = ("yes", "False", 1, 0, None)
FUNCTION: Final[Wrong] = ("time.monotonic", 3, None)
FUNCTION_OR_NONE: Final[Wrong] = ("print", 3, {})
OBSERVER: Final[Wrong] = ("metrics", 3, Mode.OFF, {})
OBJECT: Final[Wrong] = ({}, "text", 3)
TEXT: Final[Wrong] = (3, None, b"1.0")
SECRET: Final[Wrong] = (None, 3, SECRET_TEXT.encode())
ERRORS: Final[Wrong] = (
    "ValueError",
    None,
    BaseException,
    KeyboardInterrupt,
    (ValueError, 3),
    [ValueError],
    int,
)
APP: Final[Wrong] = (None, "billing:app", 3, dict)
PATH: Final[Wrong] = ("metrics", "", None, 3, "/metrics?x=1", "/a b")
PREFIX: Final[Wrong] = ("healthz", "/healthz/", "/", None, 3)
TEXTS: Final[Wrong] = ("text", b"text", 3, None, [3], ["a b"])
RATES: Final[Wrong] = ("", "100", "100/fortnight", "many/minute", (), None, 100, ["100/minute"])


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a class or function is called rightly, and what is wrong for each of its parameters."""

    right: Mapping[str, object] = field(default_factory=dict[str, object])
    wrong: Mapping[str, Wrong] = field(default_factory=dict[str, Wrong])
    free: Mapping[str, str] = field(default_factory=dict[str, str])
    shown_as: Mapping[str, str] = field(default_factory=dict[str, str])
    hidden: Collection[str] = ()
    call: Callable[..., object] | None = None


CLOCK: Final[Mapping[str, Wrong]] = {"clock": FUNCTION}
OBSERVED: Final[Mapping[str, Wrong]] = {"observer": OBSERVER, **CLOCK}
