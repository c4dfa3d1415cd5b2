"""Give routes other times and sizes while they run, checked as at construction."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final

from ..deadlines._limits import TransferLimits
from ..validation import validation
from ._rules import check_route, example_of, pattern_of
from .options import HardenOptions, RouteOptions

Numbers = Mapping[str, Mapping[str, object]]
"""Numbers by route; those of `*` hold for all that are given no others."""

ALL: Final = "*"
_OF_ALL: Final = ("request_timeout", "stream_timeout")
_OF_ROUTES: Final = (*_OF_ALL, "stream_idle", "heartbeat")
_SIZES: Final = tuple(field.name for field in fields(TransferLimits))


def renumbered(options: HardenOptions, routes: Numbers) -> HardenOptions:
    """Return options with other numbers; raise `ValueError` if one is wrong."""
    of_all = _changes(options.limits, routes.get(ALL, {}), _OF_ALL)
    options = replace(options, **of_all)
    parts = list(options.routes)
    for route, numbers in routes.items():
        if route == ALL:
            continue
        try:
            parts = _with_route(parts, route, numbers, limits=options.limits)
        except ValueError as error:
            raise ValueError(f"{route}: {error}") from None
    return replace(options, routes=parts)


def _with_route(
    parts: Sequence[RouteOptions],
    route: str,
    numbers: Mapping[str, object],
    *,
    limits: TransferLimits,
) -> list[RouteOptions]:
    for place, part in enumerate(parts):
        if route in part.routes:
            # In its place: the first that matches a request counts.
            new = replace(
                part, routes=[route], **_changes(part.limits or limits, numbers, _OF_ROUTES)
            )
            remaining = [listed for listed in part.routes if listed != route]
            rest = [replace(part, routes=remaining)] if remaining else []
            return [*parts[:place], new, *rest, *parts[place + 1 :]]
    # A part of what another route is given; or of what none is, behind those that are narrower.
    place = next((place for place, part in enumerate(parts) if _is_within(route, part)), len(parts))
    wider = parts[place] if place < len(parts) else RouteOptions(routes=[route])
    changes = _changes(wider.limits or limits, numbers, _OF_ROUTES)
    return [*parts[:place], replace(wider, routes=[route], **changes), *parts[place:]]


def _is_within(route: str, part: RouteOptions) -> bool:
    """Whether the rules of a part hold for each request of a route."""
    method, path = check_route("RouteOptions.routes", route)
    example = example_of(path)
    for listed in part.routes:
        its_method, its_path = check_route("RouteOptions.routes", listed)
        if its_method in {"", method} and re.fullmatch(pattern_of(its_path), example):
            return True
    return False


def _changes(
    limits: TransferLimits, numbers: Mapping[str, object], times: Sequence[str]
) -> dict[str, Any]:
    for name in numbers.keys() - {*times, *_SIZES}:
        validation.refuse("a number", name, f"one of {', '.join((*times, *_SIZES))}")
    changes = {name: number for name, number in numbers.items() if name in times}
    sizes: dict[str, Any] = {name: number for name, number in numbers.items() if name in _SIZES}
    if sizes:
        changes["limits"] = replace(limits, **sizes)
    return changes
