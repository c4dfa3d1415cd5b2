"""Find what a request is given by its route.

Limits, time, priority and rates, resolved at start.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
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
    stream_idle: float = math.inf  # Seconds for which a stream's application may send nothing.
    heartbeat: float = math.inf  # Seconds after which an idle event stream gets a comment.
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


def route_table(classes: Sequence[tuple[Sequence[str], Rules]], default: Rules) -> Find:
    """Return what finds the rules of a request.

    The first route that matches counts, with `/items//7/` as `/items/7`.

    What grants a request more than others have is no other spelling's: an application answers 404
    to `//items//7`, and as many of those as a caller likes must count against its limits.
    """
    pairs = [(route, rules) for routes, rules in classes for route in routes]
    listed = [
        _Route(order, *check_route("route", route), rules=rules)
        for order, (route, rules) in enumerate(pairs)
    ]
    methods = {route.method for route in listed} | {"", "HEAD"}
    as_written = {method: _Table(method, listed) for method in methods}
    bounding = [route for route in listed if not route.rules.grants]
    otherwise = {method: _Table(method, bounding) for method in methods}

    def find(method: str, path: str) -> Rules:
        table = as_written.get(method) or as_written[""]
        rules = table.exact.get(path)
        if rules is None and "//" in path:
            table = otherwise.get(method) or otherwise[""]
            path = _slashes("/", path)
            rules = table.exact.get(path)
        if rules is None and table.has_parameters:
            route = table.search(path)
            rules = None if route is None else route.rules
        return default if rules is None else rules

    return find


class _Route:
    """A route and its place in the order of all."""

    def __init__(self, order: int, method: str, path: str, *, rules: Rules) -> None:
        self.order = order
        self.method = method
        self.path = path
        self.rules = rules
        # The parts of the path, None for one that has a parameter.
        marked = _PARAMETER.sub(lambda match: "{:}" if match[1] == ":path" else "{}", path)
        parts = marked.split("/")
        tail = [place for place, part in enumerate(parts) if "{:}" in part]
        # What `{rest:path}` matches has any number of parts.
        self.length: int | None = None if tail else len(parts)
        fixed = parts[: tail[0]] if tail else parts
        self.places = tuple(place for place, part in enumerate(fixed) if "{" not in part)
        self.literals = tuple(fixed[place] for place in self.places)

    @cached_property
    def match(self) -> Callable[[str], re.Match[str] | None]:
        pattern = pattern_of(self.path) + ("" if self.rules.grants else "/?")
        return re.compile(pattern, re.DOTALL).fullmatch


_Shapes = dict[tuple[int, ...], dict[tuple[str, ...], list[_Route]]]
"""The routes by the places of their literal parts, and those by these parts.

A service has few shapes of routes.
"""


class _Table:
    """The routes of one method: those without parameters by path, and all others by their shape."""

    def __init__(self, method: str, listed: Sequence[_Route]) -> None:
        of = {"", method} | ({"GET"} if method == "HEAD" else set[str]())
        routes = [route for route in listed if route.method in of]
        self.exact: dict[str, Rules] = {}
        self._shapes: dict[int | None, _Shapes] = {}
        for route in routes:
            if "{" in route.path:
                shape = self._shapes.setdefault(route.length, {}).setdefault(route.places, {})
                shape.setdefault(route.literals, []).append(route)
        self.has_parameters: bool = bool(self._shapes)
        for route in routes:
            if "{" not in route.path:
                self._add(route)

    def _add(self, route: _Route) -> None:
        slashed = f"{route.path.rstrip('/')}/"
        for written in [route.path] if route.rules.grants else [route.path, slashed]:
            earlier = self.search(written)
            if earlier is None or earlier.order > route.order:
                self.exact.setdefault(written, route.rules)

    def search(self, path: str) -> _Route | None:
        """Return the first route with parameters that matches a path."""
        parts = path.removesuffix("/").split("/")
        first: _Route | None = None
        for length in (len(parts), None):
            for places, routes in self._shapes.get(length, _NO_SHAPES).items():
                literals = tuple(parts[place] for place in places if place < len(parts))
                for route in routes.get(literals, ()):
                    is_earlier = first is None or route.order < first.order
                    if is_earlier and route.match(path) is not None:
                        first = route
                        break
        return first


_NO_SHAPES: Final[_Shapes] = {}


def pattern_of(path: str) -> str:
    literals = [re.escape(text) for text in _PARAMETER.split(path)[::2]]
    kinds = [".*" if match[1] == ":path" else "[^/]+" for match in _PARAMETER.finditer(path)]
    return "".join(part for pair in zip(literals, [*kinds, ""], strict=True) for part in pair)


def example_of(path: str) -> str:
    """Return a path of a route that only routes match which match each of its paths."""
    # No literal part has a NUL, and `{id}` matches one part only.
    return _PARAMETER.sub(lambda match: "\0/\0" if match[1] == ":path" else "\0", path)


def check_route(field: str, value: object) -> tuple[str, str]:
    """Split a route such as `GET /items/{id}` into its method, empty for any, and its path."""
    match = _route_of(value) if isinstance(value, str) else None
    if match is None or any(mark in _PARAMETER.sub("", match[2]) for mark in "{}?#"):
        rule = "a path or template, with or without a method"
        validation.refuse(field, value, rule, example='"GET /items/{id}"')
    return match[1] or "", _slashes("/", match[2]).rstrip("/") or "/"
