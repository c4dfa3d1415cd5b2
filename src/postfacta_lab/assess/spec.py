"""The service file: how a service is started, what may be read or written, what it depends on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

from ..engine.values import as_list

__all__ = ["LOOPBACK", "Ask", "Database", "Spec", "SpecError"]

_PORTS = {"postgresql": 5432, "postgres": 5432, "mysql": 3306, "mariadb": 3306, "redis": 6379, "amqp": 5672}
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_PATH = re.compile(r"(/\S*)?")
_LEAST_SECRET = 6
_HOUR = 3600


class SpecError(ValueError):
    """The service file is wrong; the message names the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request of the service's own. `{unique}` in it becomes a new mark, `{id}` the id of a write."""

    path: str
    method: str = "GET"
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """What the service depends on by TCP: the variable it reads, and the address that stands in it."""

    env: str
    url: str
    max_connections: int = 25

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or _PORTS.get(parts.scheme.partition("+")[0], 0)

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
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    grace: float = 30.0
    prestop: float = 0.0
    live: str = ""
    ready: str = ""
    metrics: str = ""
    project: Path | None = None
    public: bool = False
    read: Ask | None = None
    write: Ask | None = None
    auth: tuple[str, str] | None = None
    database: Database | None = None
    off: Mapping[str, str] = field(default_factory=dict[str, str])
    declared: Mapping[str, str] = field(default_factory=dict[str, str])
    checks: tuple[str, ...] = ()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must stand in no report: credentials, the password of the database, values for the environment."""
        password = urlsplit(self.database.url).password if self.database else None
        found = [*self.env.values(), password or "", *(self.auth[1].split() if self.auth else ())]
        return tuple(sorted({text for text in found if len(text) >= _LEAST_SECRET}, key=len, reverse=True))

    @classmethod
    def of(cls, data: Mapping[str, Any], environment: Mapping[str, str], folder: Path) -> Spec:
        """Read the content of a file, or raise `SpecError`. `${NAME}` is taken from the environment."""
        top = _Table(_filled(data, environment), "", folder)
        service = top.table("service")
        start = service.list("start")
        if not start:
            raise SpecError("[service] start is missing: the words of the command, with {port} for its port")
        database, declares = top.table("database"), top.tables("declare")
        spec = cls(
            start=start,
            name=service.text("name", "service"),
            env=service.texts("env"),
            grace=service.number("grace", 30.0),
            prestop=service.number("prestop", 0.0),
            live=service.path("live"),
            ready=service.path("ready"),
            metrics=service.path("metrics"),
            project=(folder / project) if (project := service.text("project", "")) else None,
            public=service.flag("public"),
            read=_ask(top.table("read")),
            write=_ask(top.table("write"), method="POST"),
            auth=_auth(top.table("auth")),
            database=_database(database),
            off=top.table("limits").texts("off"),
            declared={entry.need("check"): entry.need("why") for entry in declares},
            checks=top.list("checks"),
        )
        top.finish()
        return spec


def _filled(value: Any, environment: Mapping[str, str], where: str = "") -> Any:
    if isinstance(value, str):
        try:
            return _VARIABLE.sub(lambda match: environment[match[1]], value)
        except KeyError as error:
            raise SpecError(f"{where}: the environment has no {error.args[0]}") from None
    if isinstance(value, list):
        return [_filled(entry, environment, where) for entry in as_list(value)]
    if isinstance(value, dict):
        return {
            key: _filled(entry, environment, f"{where} {key}".strip())
            for key, entry in cast("dict[str, Any]", value).items()
        }
    return value


def _are_texts(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


class _Table:
    """A table of the file, read key by key; what is left over at the end is refused."""

    def __init__(self, data: Any, name: str, folder: Path) -> None:
        if not isinstance(data, dict):
            raise SpecError(f"[{name}] must be a table")
        self._data: dict[str, Any] = dict(cast("dict[str, Any]", data))
        self.name, self._folder = name, folder
        self._inner: list[_Table] = []

    @property
    def empty(self) -> bool:
        """Whether the file does not have it."""
        return not self._data

    def _take(  # noqa: PLR0917 - each call is a line of a table
        self, key: str, default: Any, kind: Any, what: str, fits: Callable[[Any], object] = lambda _: True
    ) -> Any:
        value = self._data.pop(key, default)
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool) or not fits(value):
            raise SpecError(f"[{self.name}] {key} must be {what}")
        return value

    def text(self, key: str, default: str) -> str:
        return str(self._take(key, default, str, "a string"))

    def need(self, key: str) -> str:
        return str(self._take(key, None, str, "a string", bool))

    def path(self, key: str) -> str:
        """Return a path of the service, or nothing."""
        return str(self._take(key, "", str, 'a path, as "/healthz"', _PATH.fullmatch))

    def number(self, key: str, default: float) -> float:
        """Return a number that is not below zero."""
        what = "a number of seconds, at most 3600"
        return float(self._take(key, default, (int, float), what, lambda value: 0 <= value <= _HOUR))

    def flag(self, key: str) -> bool:
        return bool(self._take(key, False, bool, "true or false"))  # noqa: FBT003

    def any(self, key: str) -> Any:
        return self._data.pop(key, None)

    def list(self, key: str) -> tuple[str, ...]:
        return tuple(self._take(key, [], list, "a list of strings", _are_texts))

    def texts(self, key: str) -> dict[str, str]:
        what = "a table of strings"
        return dict(self._take(key, {}, dict, what, lambda value: _are_texts(value.values())))

    def table(self, key: str) -> _Table:
        """Return a table of it, empty if it is not there."""
        inner = _Table(self._data.pop(key, {}), key, self._folder)
        self._inner.append(inner)
        return inner

    def tables(self, key: str) -> Sequence[_Table]:
        entries = self._take(key, [], list, "an array of tables")
        inner = [_Table(entry, key, self._folder) for entry in entries]
        self._inner += inner
        return inner

    def finish(self) -> None:
        """Raise `SpecError` if a key was not asked for."""
        for key in self._data:
            raise SpecError(f"[{self.name}] {key} is not known" if self.name else f"{key} is not known")
        for inner in self._inner:
            inner.finish()


def _ask(table: _Table, method: str = "GET") -> Ask | None:
    if table.empty:
        return None
    method, path, identity = table.text("method", method), table.path("path"), table.text("id", "")
    if not path:
        raise SpecError(f"[{table.name}] path is missing")
    if not re.fullmatch(r"[A-Z]{3,10}", method):
        raise SpecError(f'[{table.name}] method must be one, as "POST"')
    if identity and not identity.startswith("/"):
        raise SpecError(f'[{table.name}] id must be a JSON pointer, as "/id"')
    return Ask(path=path, method=method, json=table.any("json"), headers=table.texts("headers"), id=identity)


def _auth(table: _Table) -> tuple[str, str] | None:
    if table.empty:
        return None
    name, colon, value = table.text("header", "").partition(":")
    if not colon or not re.fullmatch(r"[\w-]+", name) or not value.strip():
        raise SpecError('[auth] header must be one, as "Authorization: Bearer ${TOKEN}"')
    return name, value.strip()


def _database(table: _Table) -> Database | None:
    if table.empty:
        return None
    database = Database(
        env=table.need("env"), url=table.need("url"), max_connections=int(table.number("max_connections", 25))
    )
    try:
        host, port = database.address
    except ValueError:
        host, port = "", 0
    if not host or not port:
        raise SpecError("[database] url must be an address with host and port")
    return database
