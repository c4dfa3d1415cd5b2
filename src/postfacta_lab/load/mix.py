"""What a load test asks for: some paths, or what a file of requests says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.values import Fields, as_dict, as_list, read_yaml

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True)
class Ask:
    """A kind of request."""

    route: str  # its row in the report
    share: int  # its weight in the mix
    path: str  # with a query, if any
    method: str = "GET"
    body: object = None  # sent as JSON; None for no body
    expected: int = 0  # the status of a good answer; 0 for any of 200 to 299
    key: str = ""  # the Idempotency-Key of a write; empty for a new one each time

    def is_good(self, status: int) -> bool:
        return status == self.expected if self.expected else 200 <= status < 300


_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "path": (
        lambda value: isinstance(value, str) and bool(re.fullmatch("/[!-~]*", value)),
        "must begin with / and be escaped as in a URL",
    ),
    "method": (
        lambda value: str(value).upper() in _METHODS,
        f"must be one of {', '.join(_METHODS)}",
    ),
    "route": (lambda value: isinstance(value, str) and value != "", "must be a text"),
    "share": (lambda value: type(value) is int and value > 0, "must be a whole number, at least 1"),
    "body": (lambda value: isinstance(value, dict | list), "must have fields, or be a list"),
    "expected": (
        lambda value: type(value) is int and 100 <= value <= 599,
        "must be a status from 100 to 599",
    ),
}


def read_mix(paths: Sequence[str], file: Path | None) -> tuple[Ask, ...]:
    """Return the mix of a run, GET of each path or a file's.

    `ValueError` says what is wrong, and where.
    """
    if bool(paths) == bool(file):
        raise ValueError("name what users ask for: --path /invoices/7, or --mix FILE; not both")
    if not file:
        return tuple(_ask("--path", {"path": path}) for path in paths)
    try:
        documents = read_yaml(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from None
    entries = as_list(documents[0]) if len(documents) == 1 else []
    if not entries:
        raise ValueError(
            f"{file}: must be a list of requests, such as [{{path: /invoices/7, share: 3}}]"
        )
    return tuple(
        _ask(f"{file}, request {place}", as_dict(entry)) for place, entry in enumerate(entries, 1)
    )


def _ask(place: str, entry: Fields) -> Ask:
    for name, value in {**entry, "path": entry.get("path")}.items():
        if name not in _FIELDS:
            raise ValueError(f"{place}: {name!r} is no field; there are {', '.join(_FIELDS)}")
        is_right, rule = _FIELDS[name]
        if not is_right(value):
            raise ValueError(f"{place}: {name} {rule}, not {value!r}")
    method = str(entry.get("method", "GET")).upper()
    route = f"{method} {entry['path'].partition('?')[0]}"
    fields: dict[str, Any] = {"route": route, "share": 1, **entry, "method": method}
    return Ask(**fields)
