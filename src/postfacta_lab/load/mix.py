"""What a load test asks for: some paths, or what a file of requests says."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

__all__ = ["Ask", "read_mix"]

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "method": str,
    "path": str,
    "route": str,
    "share": int,
    "body": (dict, list),
    "expected": int,
}


@dataclass(frozen=True, slots=True)
class Ask:
    """A kind of request.

    Attributes:
        route: Its row in the report.
        share: Its weight in the mix.
        path: With a query, if any.
        method: HTTP's.
        body: Sent as JSON; None for no body.
        expected: The status of a good answer; 0 for any of 200 to 299.
    """

    route: str
    share: int
    path: str
    method: str = "GET"
    body: object = None
    expected: int = 0

    def is_good(self, status: int) -> bool:
        """Return whether an answer of this status is what was asked for."""
        return status == self.expected if self.expected else 200 <= status < 300


def read_mix(paths: Sequence[str], file: Path | None) -> tuple[Ask, ...]:
    """Return the mix of a run: GET of each path, or a file's.

    Raises:
        ValueError: Both are given, or neither, or one is wrong; with what and where.
    """
    if bool(paths) == bool(file):
        raise ValueError("name what users ask for: --path /invoices/7, or --mix FILE; not both")
    if file:
        return _of_file(file)
    for path in paths:
        _check_path(path, "--path")
    return tuple(Ask(f"GET {path.partition('?')[0]}", 1, path) for path in paths)


def _of_file(file: Path) -> tuple[Ask, ...]:
    try:
        text = file.read_text()
        found = _parsed(text, file.suffix)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: {error}") from None
    if not isinstance(found, list) or not found:
        raise ValueError(f"{file}: must be a list of requests, such as [{{path: /invoices/7, share: 3}}]")
    return tuple(
        _ask(f"{file}, request {place}", entry) for place, entry in enumerate(cast("list[object]", found), 1)
    )


def _parsed(text: str, suffix: str) -> object:
    if suffix == ".toml":  # which has no lists at its top
        return tomllib.loads(text).get("request")
    found: object = json.loads(text) if suffix == ".json" else yaml.safe_load(text)
    return found


def _ask(where: str, entry: object) -> Ask:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: must have fields such as path and share, not be {entry!r}")  # noqa: TRY004 - the file's fault
    fields = cast("dict[str, object]", entry)
    for name, value in fields.items():
        if name not in _FIELDS:
            raise ValueError(f"{where}: {name!r} is no field; there are {', '.join(_FIELDS)}")
        if not isinstance(value, _FIELDS[name]) or isinstance(value, bool):
            raise ValueError(f"{where}: {name} cannot be {value!r}")  # noqa: TRY004 - likewise
    path, share = str(fields.get("path", "")), cast("int", fields.get("share", 1))
    method, expected = str(fields.get("method", "GET")).upper(), cast("int", fields.get("expected", 0))
    _check_path(path, where)
    if method not in _METHODS:
        raise ValueError(f"{where}: method must be one of {', '.join(_METHODS)}, not {method!r}")
    if share < 1:
        raise ValueError(f"{where}: share must be at least 1, not {share}")
    if expected and not 100 <= expected <= 599:
        raise ValueError(f"{where}: expected must be a status from 100 to 599, not {expected}")
    route = str(fields.get("route") or f"{method} {path.partition('?')[0]}")
    return Ask(route, share, path, method, fields.get("body"), expected)


def _check_path(path: str, where: str) -> None:
    if not path.startswith("/") or any(not "!" <= sign <= "~" for sign in path):
        raise ValueError(f"{where}: a path must begin with / and be escaped as in a URL, not {path!r}")
