"""Find what a request is given by its route: limits, time, priority and rates, resolved at start."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ..deadlines._limits import TransferLimits
from ..events import Mode
from ..limits._waiting import Priority
from ..validation import validation
from ._ratelimit import RatePlan

# Seconds; a browser's user has gone after that, and a handshake costs memory and a connection.
HANDSHAKE: Final = 5.0
UNBOUNDED: Final = TransferLimits(
    max_header_bytes=sys.maxsize, max_body_bytes=sys.maxsize, max_message_bytes=sys.maxsize
)
_route_of = re.compile(r"(?:([A-Z]+) )?(/\S*)").fullmatch
_slashes = re.compile("/{2,}").sub
_PARAMETER: Final = re.compile(r"\{[^{}:]+(:[a-z]+)?\}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rules:
    limits: TransferLimits = UNBOUNDED
    timeout: float = math.inf
    handshake: float = HANDSHAKE  # Seconds in which a WebSocket must be accepted.
    stream_timeout: float = math.inf
    drain_timeout: float = math.inf  # Seconds after a drain's delay; the drain has its own limit.
    farewell: bool | None = None  # Of event streams, in a drain; None: as the client asks for them.
    cancels: bool = False
    priority: Priority = Priority.CRITICAL
    shedding: Mode | None = None  # None: as the limiter's.
    waits: bool = False  # Its requests hold no slot of the limiter.
    rates: RatePlan | None = None
    # Less is refused than elsewhere: only the path as the route writes it is given this.
    grants: bool = False


def any_of_none(seconds: float | None) -> float:
    """Return a limit in seconds, which is None for any number of them."""
    return math.inf if seconds is None else seconds


Find = Callable[[str, str], Rules]
"""Finds the rules of a request by its method and path."""


def route_table(classes: Sequence[tuple[Sequence[str], Rules]], others: Rules) -> Find:
    """Return what finds the rules of a request: the first route that matches counts, with `/items//7/` as `/items/7`.

    What grants a request more than others have is no other spelling's: an application answers 404
    to `//items//7`, and as many of those as a caller likes must count against its limits.
    """
    listed = [
        (*check_route("route", route), rules) for routes, rules in classes for route in routes
    ]
    methods = {method for method, _, _ in listed} | {"", "HEAD"}
    as_written = {method: _compiled(method, listed) for method in methods}
    bounding = [route for route in listed if not route[2].grants]
    otherwise = {method: _compiled(method, bounding) for method in methods}

    def find(method: str, path: str) -> Rules:
        tables = as_written
        rules = (tables.get(method) or tables[""])[0].get(path)
        if rules is None and "//" in path:
            tables = otherwise
            path = _slashes("/", path)
            rules = (tables.get(method) or tables[""])[0].get(path)
        if rules is not None:
            return rules
        _, match, found = tables.get(method) or tables[""]
        if match is not None and (place := match(path)) is not None and place.lastindex is not None:
            return found[place.lastindex - 1]
        return others

    return find


_Compiled = tuple[dict[str, Rules], Callable[[str], re.Match[str] | None] | None, list[Rules]]
"""The routes of one method: those without parameters, one expression for all others, and what each stands for."""


def _compiled(method: str, listed: Sequence[tuple[str, str, Rules]]) -> _Compiled:
    exact: dict[str, Rules] = {}
    patterns: list[str] = []
    found: list[Rules] = []
    of = {"", method} | ({"GET"} if method == "HEAD" else set[str]())
    for _, path, rules in (each for each in listed if each[0] in of):
        if "{" in path:
            patterns.append(f"({pattern_of(path)}{'' if rules.grants else '/?'})")
            found.append(rules)
            continue
        for written in [path] if rules.grants else [path, f"{path.rstrip('/')}/"]:
            if not any(re.fullmatch(earlier, written, re.DOTALL) for earlier in patterns):
                exact.setdefault(written, rules)
    return (exact, re.compile("|".join(patterns), re.DOTALL).fullmatch if patterns else None, found)


def pattern_of(path: str) -> str:
    literals = [re.escape(text) for text in _PARAMETER.split(path)[::2]]
    kinds = [".*" if found[1] == ":path" else "[^/]+" for found in _PARAMETER.finditer(path)]
    return "".join(part for pair in zip(literals, [*kinds, ""], strict=True) for part in pair)


def check_route(field: str, value: object) -> tuple[str, str]:
    """Split a route such as `GET /items/{id}` into its method, empty for any, and its path."""
    found = _route_of(value) if isinstance(value, str) else None
    if found is None or any(mark in _PARAMETER.sub("", found[2]) for mark in "{}?#"):
        rule = "a path or template, with or without a method"
        validation.refuse(field, value, rule, example='"GET /items/{id}"')
    return found[1] or "", _slashes("/", found[2]).rstrip("/") or "/"
