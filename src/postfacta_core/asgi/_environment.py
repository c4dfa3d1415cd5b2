"""Read options from environment variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import Field, fields, replace
from difflib import get_close_matches
from functools import partial
from typing import Any, Final, TypeVar

from ..deadlines._transfer import TransferLimits
from ..drain._course import DrainLimits
from ..limits._overload import OverloadConfig
from ..limits.store import SharedStore
from ..validation import validation
from ._cors import Cors

T = TypeVar("T")

# Options that no text can say.
FUNCTIONS: Final = frozenset({"priority_of", "allow_metrics", "allow_health_detail", "routes"})
GROUPS: Final[Mapping[str, type[Any]]] = {
    "limits": TransferLimits,
    "concurrency": OverloadConfig,
    "drain": DrainLimits,
    "cors": Cors,
}
_WHOLE: Final = re.compile(r"[+-]?\d+")
# A name that is so much like one of ours is a mistake.
_ALIKE: Final = 0.9


def _number(variable: str, text: str) -> float:
    try:
        return int(text) if _WHOLE.fullmatch(text) else float(text)
    except ValueError:
        validation.refuse(variable, text, "a number", example="30")


def _number_or_none(variable: str, text: str) -> float | None:
    return None if text.lower() == "none" else _number(variable, text)


def _flag(variable: str, text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        validation.refuse(variable, text, "true or false", example="true")
    return text.lower() == "true"


def _text(_: str, text: str) -> str:
    return text


def _list(_: str, text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _headers(variable: str, text: str) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = line.partition(":")
        if not colon:
            validation.refuse(variable, line, "a header a line", example="X-Frame-Options: DENY")
        pairs.append((name.strip(), value.strip()))
    return tuple(pairs)


def _store(variable: str, address: str) -> SharedStore:
    try:
        return SharedStore(address)
    except ValueError as error:
        raise ValueError(f"{error} (the environment sets {variable})") from None


_Reader = Callable[[str, str], Any]
_READERS: Final[Mapping[str, _Reader]] = {
    "request_timeout": _number_or_none,
    "stream_timeout": _number_or_none,
    "access_lines": _number_or_none,
    "response_headers": _headers,
    "rate_limit_store": _store,
}


def _reader_of(option: Field[Any]) -> _Reader:
    if option.name in _READERS:
        return _READERS[option.name]
    match option.default:
        case bool():
            return _flag
        case str():
            return _text
        case tuple():
            return _list
        case _:
            return _number


def _variables(kind: type[Any], prefix: str, group: str = "") -> dict[str, Field[Any]]:
    """Return the variables of the options of a class; `DRAIN_TIMEOUT`, not `DRAIN_DRAIN_TIMEOUT`."""
    return {
        f"{prefix}{group}{option.name.upper().removeprefix(group)}": option
        for option in fields(kind)
        if option.name not in {*FUNCTIONS, *GROUPS}
    }


def read_options(kind: type[T], prefix: str, environ: Mapping[str, str], *, given: Mapping[str, Any]) -> T:
    """Make the options that the environment sets, on top of what the code gives.

    Raises:
        ValueError: If a value is wrong, or a name is nearly that of an option.
    """
    own = _variables(kind, prefix)
    groups = {name: _variables(group, prefix, f"{name.upper()}_") for name, group in GROUPS.items()}
    known = [*own, *(variable for group in groups.values() for variable in group)]
    for name in environ:
        if name.startswith(prefix) and name not in known:
            for alike in get_close_matches(name, known, n=1, cutoff=_ALIKE):
                validation.refuse("the environment variable", name, alike, example=f"{alike}=...")
    values = dict(given)
    for name, variables in groups.items():
        if variables.keys() & environ.keys():
            base = values.get(name)
            make = GROUPS[name] if base is None else partial(replace, base)
            values[name] = _made(make, variables, environ)
    return _made(partial(kind, **values), own, environ)


def _made(make: Callable[..., T], variables: Mapping[str, Field[Any]], environ: Mapping[str, str]) -> T:
    read = {
        option.name: _reader_of(option)(name, environ[name])
        for name, option in variables.items()
        if name in environ
    }
    try:
        return make(**read)
    except ValueError as error:
        names = ", ".join(name for name in variables if name in environ)
        raise ValueError(f"{error} (the environment sets {names or 'nothing'})") from None
