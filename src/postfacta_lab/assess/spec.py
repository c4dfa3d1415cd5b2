"""The service file: how a service is started, what may be read or written, what it depends on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

from ..engine.values import Fields, Headers, as_dict, as_list
from ..engine.variables import Environment

_PORTS = {
    "postgresql": 5432,
    "postgres": 5432,
    "mysql": 3306,
    "mariadb": 3306,
    "redis": 6379,
    "amqp": 5672,
}
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_LEAST_SECRET = 6  # characters; a shorter text would hide what is no secret


class SpecError(ValueError):
    """The service file is wrong; the message names the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request of the service's own.

    `{unique}` in it becomes a new mark, `{id}` the id of a write. `ends` is the text with which a
    whole stream ends.
    """

    path: str
    method: str = "GET"
    json: Any = None
    headers: Headers = field(default_factory=dict[str, str])
    id: str = ""
    ends: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """What the service depends on by TCP.

    The variable it reads, and the address that stands in it.
    """

    env: str
    url: str
    max_connections: int = 25

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        scheme, _, _ = parts.scheme.partition("+")  # a driver may follow
        return parts.hostname or "", parts.port or _PORTS.get(scheme, 0)

    def at(self, port: int) -> str:
        """Return the address with the port of a link in place of its own."""
        parts = urlsplit(self.url)
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{port}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A service file that was read; what is missing in it leaves checks not run."""

    start: tuple[str, ...] = ()
    name: str = "service"
    env: Environment = field(default_factory=dict[str, str])
    grace: float = 30.0
    prestop: float = 0.0
    live: str = ""
    ready: str = ""
    metrics: str = ""
    project: Path | None = None
    keeps: str = ""
    public: bool = False
    read: Ask | None = None
    write: Ask | None = None
    stream: Ask | None = None
    auth: tuple[str, str] | None = None
    database: Database | None = None
    off: Mapping[str, str] = field(default_factory=dict[str, str])
    declared: Mapping[str, str] = field(default_factory=dict[str, str])
    checks: tuple[str, ...] = ()

    @property
    def has_no_database(self) -> bool:
        """Whether the file says that what it keeps, if anything, is in no database."""
        return self.keeps in {"nothing", "files"}

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must stand in no report.

        Credentials, the password of the database, values for the environment.
        """
        password = urlsplit(self.database.url).password if self.database else None
        credentials = self.auth[1].split() if self.auth else []
        texts = {*self.env.values(), password or "", *credentials}
        secrets = [text for text in texts if len(text) >= _LEAST_SECRET]
        # The longest first: one may be a part of another.
        return tuple(sorted(secrets, key=len, reverse=True))

    @classmethod
    def of(cls, data: Fields, environment: Environment, folder: Path) -> Spec:
        """Read the content of a file, or raise `SpecError`.

        `${NAME}` is taken from the environment.
        """
        file = _table("", _filled(data, environment))
        names = [name for name in _KEYS if name not in {"", "declare"}]
        tables = {name: _table(name, file.get(name, {})) for name in names}
        declares = [_table("declare", entry) for entry in file.get("declare", [])]
        read = tables["read"]
        write = tables["write"]
        stream = tables["stream"]
        if write:
            write.setdefault("method", "POST")
        service: dict[str, Any] = dict(tables["service"])
        service["start"] = tuple(service["start"])
        if project := service.pop("project", ""):
            service["project"] = folder / project
        header, _, value = tables["auth"].get("header", "").partition(":")
        database = tables["database"]
        keeps = service.get("keeps", "")
        if database and keeps not in {"", "database"}:
            raise SpecError(
                f'[service] keeps is "{keeps}", but there is a [database]: write "database", '
                "or take [database] out"
            )
        return cls(
            **service,
            read=Ask(**read) if read else None,
            write=Ask(**write) if write else None,
            stream=Ask(**stream) if stream else None,
            auth=(header, value.strip()) if header else None,
            database=Database(**database) if database else None,
            off=tables["limits"].get("off", {}),
            declared={entry["check"]: entry["why"] for entry in declares},
            checks=tuple(file.get("checks", [])),
        )


def _filled(data: Fields, environment: Environment) -> Any:
    """Put values of the environment in place of their names, in all texts."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in environment:
            raise SpecError(f"the environment has no {match[1]}")
        quoted = json.dumps(environment[match[1]])
        return quoted[1:-1]

    text = json.dumps(data, default=str)
    return json.loads(_VARIABLE.sub(value, text))


_Kind = tuple[str, Callable[[Any], object]]  # what a value must be, in words and as a condition


def _like(pattern: str, description: str) -> _Kind:
    compiled = re.compile(pattern, re.DOTALL)
    return description, lambda value: isinstance(value, str) and compiled.fullmatch(value)


def _are_texts(value: Any, kind: type) -> bool:
    if not isinstance(value, kind):
        return False
    values = as_list(value) or as_dict(value).values()
    return all(isinstance(entry, str) for entry in values)


def _is_address(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        host, port = Database(env="", url=value).address
    except ValueError:
        return False
    return bool(host and port)


_ANY: _Kind = ("anything", lambda _: True)
_TEXT = _like(".*", "a string")
_PATH = _like(r"(/\S*)?", 'a path, as "/healthz"')
_NUMBER: _Kind = (
    "a number, at most 3600",
    lambda value: type(value) in {int, float} and 0 <= value <= 3600,
)
_FLAG: _Kind = ("true or false", lambda value: isinstance(value, bool))
_LIST: _Kind = ("a list of strings", lambda value: _are_texts(value, list))
_TEXTS: _Kind = ("a table of strings", lambda value: _are_texts(value, dict))
_TABLES: _Kind = ("an array of tables", lambda value: isinstance(value, list))
_ASK = {
    "path": _PATH,
    "method": _like("[A-Z]{3,10}", 'one, as "POST"'),
    "json": _ANY,
    "headers": _TEXTS,
    "id": _like("(/.*)?", 'a JSON pointer, as "/id"'),
}
# By table, "" for the file itself.
_KEYS: Mapping[str, Mapping[str, _Kind]] = {
    "": {
        "service": _ANY,
        "read": _ANY,
        "write": _ANY,
        "stream": _ANY,
        "auth": _ANY,
        "database": _ANY,
        "limits": _ANY,
        "checks": _LIST,
        "declare": _TABLES,
    },
    "service": {
        "start": _LIST,
        "name": _TEXT,
        "env": _TEXTS,
        "grace": _NUMBER,
        "prestop": _NUMBER,
        "live": _PATH,
        "ready": _PATH,
        "metrics": _PATH,
        "project": _TEXT,
        "keeps": _like("nothing|files|database", '"nothing", "files" or "database"'),
        "public": _FLAG,
    },
    "read": _ASK,
    "write": _ASK,
    "stream": {**_ASK, "ends": _TEXT},
    "auth": {"header": _like(r"[\w-]+:\s*\S.*", 'one, as "Authorization: Bearer ${TOKEN}"')},
    "database": {
        "env": _TEXT,
        "url": ("an address with host and port", _is_address),
        "max_connections": _NUMBER,
    },
    "limits": {"off": _TEXTS},
    "declare": {"check": _TEXT, "why": _TEXT},
}
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "service": ("start",),
    "read": ("path",),
    "write": ("path",),
    "stream": ("path",),
    "auth": ("header",),
    "database": ("env", "url"),
    "declare": ("check", "why"),
}


def _table(name: str, data: Any) -> dict[str, Any]:
    """Return a table of the file; refuse what is wrong, unknown or missing in it."""
    place = f"[{name}] " if name else ""
    keys = _KEYS[name]
    if not isinstance(data, dict):
        raise SpecError(f"{place}must be a table")
    table = cast("dict[str, Any]", data)
    for key, value in table.items():
        if key not in keys:
            raise SpecError(f"{place}{key} is not known")
        description, fits = keys[key]
        if not fits(value):
            raise SpecError(f"{place}{key} must be {description}")
    if table or name in {"service", "declare"}:  # the others may be left out
        for key in _REQUIRED.get(name, ()):
            if not table.get(key):
                raise SpecError(f"{place}{key} is missing")
    return table
