"""Open connections to PostgreSQL: to the first host that accepts, with the current password."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, fields
from os import PathLike
from typing import Any, Final, TypeAlias, cast
from urllib.parse import parse_qs, urlsplit

import anyio
import asyncpg

from postfacta_core import Backoff
from postfacta_core.clock import Clock, Luck
from postfacta_core.events import ConnectionOpened, Observer
from postfacta_core.validation import validation

RawConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Password = str | Callable[[], str] | Callable[[], Awaitable[str]]
"""A password, or a function that reads it for each connection: a rotation needs no restart."""


class PasswordFile:
    """A `Password` that is read each time from a file, which an orchestrator may replace.

    A line feed at the end of the file is not part of it.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._path = anyio.Path(path)

    async def __call__(self) -> str:
        """Read it; raise OSError if there is no such file at this moment."""
        return (await self._path.read_text(encoding="utf-8")).rstrip("\r\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """Bounds of a pool. Times are seconds.

    Attributes:
        max_size: Connections lent at once; one more is reserved for health.
        max_waiting: Callers that may wait for one; later ones are refused immediately.
        acquire_timeout: Longest wait for one. A request's deadline may shorten it.
        connect_timeout: Longest time to open one, shared by the hosts that are tried, or to clear
            one that was cut off.
        statement_timeout: Longest run of a statement; a request's deadline may shorten it. The
            server ends it, and a second later this side does.
        lock_timeout: Longest wait of a statement for a lock.
        idle_in_transaction_timeout: After it the server ends a transaction that does nothing.
        close_timeout: Longest wait for lent connections when the pool closes.
        max_lifetime: Age at which a connection is replaced, up to a fifth earlier, so that not all
            are at once.
        max_idle: Time without use after which a connection is closed.
        reconnect: The waits between attempts while there is no database.
        reset: Whether a connection that comes back is cleared, by a round trip, of settings,
            advisory locks, open cursors. Without it no statement may leave such a thing behind.
        transaction_pooling: Whether a pooler such as pgbouncer gives each transaction another
            session. Then nothing is kept in a session; time limits are set in each transaction, and
            outside of one this side alone sees to them.
        plan_each_time: Whether the server plans a prepared statement for each call. Otherwise a
            plan made for a small table stays in use while it grows.
    """

    max_size: int = 10
    max_waiting: int = 100
    acquire_timeout: float = 1.0
    connect_timeout: float = 3.0
    statement_timeout: float = 5.0
    lock_timeout: float = 1.0
    idle_in_transaction_timeout: float = 15.0
    close_timeout: float = 5.0
    max_lifetime: float = 1800.0
    max_idle: float = 300.0
    reconnect: Backoff = field(default_factory=lambda: Backoff(base=0.1, cap=1.0))
    reset: bool = True
    transaction_pooling: bool = False
    plan_each_time: bool = False

    def __post_init__(self) -> None:
        validation.whole("PoolOptions.max_size", self.max_size, example="max_size=10")
        validation.whole(
            "PoolOptions.max_waiting", self.max_waiting, at_least=0, example="max_waiting=100"
        )
        validation.instance(
            "PoolOptions.reconnect", self.reconnect, Backoff, example="Backoff(base=0.1, cap=2.0)"
        )
        checks: dict[str, Callable[..., object]] = {
            "float": validation.seconds,
            "bool": validation.flag,
        }
        for option in fields(self):
            if check := checks.get(str(option.type)):
                check(f"PoolOptions.{option.name}", getattr(self, option.name))

    def session_settings(self) -> dict[str, str]:
        """Return the settings that the server enforces, by its own names."""
        times = {
            "statement_timeout": self.statement_timeout,
            "lock_timeout": self.lock_timeout,
            "idle_in_transaction_session_timeout": self.idle_in_transaction_timeout,
        }
        return {name: str(max(1, round(seconds * 1000))) for name, seconds in times.items()}


@dataclass(frozen=True, slots=True)
class Setup:
    """What all parts of one database share; the observer never raises."""

    name: str
    options: PoolOptions
    observe: Observer
    clock: Clock
    luck: Luck


class Connector:
    """Opens connections to one of the hosts of an address.

    All are opened to `host`, the number of the one that a search found: were each to look for
    itself, one pool could write to two primaries after a failover that went wrong. `namespace` is
    the database's name, for spans, or empty.

    `patience` is the seconds that a sign of life may take: twice what the last opening took, which
    is several round trips, at least 1 and at most `connect_timeout`. `is_failing` says that the
    last opening failed.
    """

    def __init__(self, setup: Setup, dsn: str, password: Password | None) -> None:
        self.host: int = 0
        self.patience: float = _LEAST_PATIENCE
        self.is_failing: bool = False
        self.namespace: str = urlsplit(dsn).path.removeprefix("/")
        self._hosts = hosts_of(dsn)
        self._servers = [urlsplit(host).hostname or "" for host in self._hosts]
        self._setup = setup
        self._arguments = _arguments(setup.name, setup.options)
        if password is not None:
            self._arguments["password"] = password

    @property
    def server(self) -> str:
        """The name of the host that was found last, for spans; empty if it is no plain one."""
        return self._servers[self.host]

    async def open(self, timeout: float, *, search: bool = False) -> RawConnection:  # noqa: ASYNC109 - the hosts share it
        """Open a connection to the host that was found last.

        Raise ConnectionError if another one was found meanwhile.

        A `search` asks the others in turn if it does not accept, and raises what the last raised.
        """
        setup = self._setup
        started = setup.clock()
        error_type = "cancelled"
        try:
            connection = await self._ask(started + timeout, search=search)
            error_type = ""
        except Exception as error:
            error_type = type(error).__name__
            raise
        finally:
            seconds = setup.clock() - started
            self._learn(seconds, error_type)
            setup.observe(ConnectionOpened(setup.name, seconds, error_type))
        return connection

    def _learn(self, seconds: float, error_type: str) -> None:
        if error_type == "cancelled":
            return
        self.is_failing = error_type != ""
        # One that ran out of time takes longer than it had.
        if error_type in {"", "TimeoutError"}:
            bound = self._setup.options.connect_timeout
            self.patience = max(_LEAST_PATIENCE, min(2 * seconds, bound))

    async def _ask(self, until: float, *, search: bool) -> RawConnection:
        hosts = [*range(self.host, len(self._hosts)), *range(self.host)] if search else [self.host]
        while True:
            host, *hosts = hosts
            # Each has its share of the time; what is left is for the others.
            share = max(0.001, (until - self._setup.clock()) / (1 + len(hosts)))
            try:
                connection = await _connect(self._hosts[host], timeout=share, **self._arguments)
            except Exception:
                if not hosts:
                    raise
                continue
            if not search and host != self.host:
                connection.terminate()
                raise ConnectionError("the database has moved")
            self.host = host
            return connection


# Seconds. A machine that stands still for most of it is no outage.
_LEAST_PATIENCE: Final = 1.0
# Seconds. The server ends a statement first; this is for one that does not answer.
_GRACE: Final = 1.0
_EXAMPLE: Final = '"postgresql://billing@db:5432/billing"'
_LAST_PORT: Final = 65_535
_PLACE: Final = re.compile(r"(?:\[[0-9A-Fa-f:.%\w]+\]|[^\s\[\]:/@]*)(?::(?P<port>[0-9]{1,5}))?")
_CHOICES: Final = {
    "sslmode": {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"},
    "target_session_attrs": {
        "any",
        "primary",
        "standby",
        "read-write",
        "read-only",
        "prefer-standby",
    },
}

# The driver's overloads ask for arguments one by one.
_connect = cast("Callable[..., Awaitable[RawConnection]]", asyncpg.connect)


def _arguments(name: str, options: PoolOptions) -> dict[str, Any]:
    settings = {"application_name": f"postfacta {name}", "timezone": "UTC"}
    arguments: dict[str, Any] = {"server_settings": settings}
    if options.transaction_pooling:
        # Both settings above are among those that pgbouncer follows; it refuses a client that names
        # others.
        return arguments | {"statement_cache_size": 0}
    # A statement whose client is gone is ended within a second, and not when it has an answer to
    # send.
    settings |= options.session_settings() | {"client_connection_check_interval": "1000"}
    if options.plan_each_time:
        settings["plan_cache_mode"] = "force_custom_plan"
    return arguments


def longest_statement(options: PoolOptions) -> float:
    """Return the seconds that this side waits for an answer: the server's own limit comes first."""
    return options.statement_timeout + _GRACE


def timed(connection: RawConnection, seconds: float) -> RawConnection:
    """Have the driver bound the statements that are sent past the pool.

    Those of the pool are bounded by its own timer, see `_watch`.
    """
    config: Any = getattr(connection, "_config", None)
    if config is not None and config.command_timeout is None:
        bounded = config._replace(command_timeout=seconds)
        setattr(connection, "_config", bounded)  # noqa: B010 - it is the driver's own
    return connection


def check_address(field: str, dsn: str) -> str:
    """Return an address, or raise ValueError, without what may be a part of its password."""
    scheme, mark, rest = validation.secret(field, dsn, example=_EXAMPLE).partition("://")
    netloc = re.split(r"[/?#]", rest, maxsplit=1)[0]
    _, at, places = netloc.rpartition("@")
    shown = f"{scheme}://{'***@' if at else ''}{places}"
    rule = "an address with hosts and ports from 1 to 65535"
    if "@" in rest[len(netloc) :]:  # A part of the password may stand where the host should.
        shown = f"{scheme}://***"
        rule = "an address whose password has /, ?, # and @ written as %2F, %3F, %23 and %40"
    if not mark or scheme not in {"postgresql", "postgres"}:  # It may be a password.
        shown = "***"
        rule = 'an address that begins with "postgresql://"'
    elif all(map(_is_place, places.split(","))) and (query := _query_of(dsn)) is not None:
        wrong = [
            name for name, choices in _CHOICES.items() if not set(query.get(name, ())) <= choices
        ]
        if not wrong:
            return dsn
        rule = f"an address whose {wrong[0]} is one of {', '.join(sorted(_CHOICES[wrong[0]]))}"
    return validation.refuse(field, shown, rule, example=_EXAMPLE)


def _query_of(dsn: str) -> dict[str, list[str]] | None:
    try:
        return parse_qs(urlsplit(dsn).query)
    except ValueError:  # Such as a host with odd characters; the text repeats the password.
        return None


def _is_place(place: str) -> bool:
    match = _PLACE.fullmatch(place)
    return match is not None and (not match["port"] or 1 <= int(match["port"]) <= _LAST_PORT)


def hosts_of(dsn: str) -> list[str]:
    """Split an address with several hosts into one for each.

    In the driver's hands a host that never answers would take the time of all.
    """
    parts = urlsplit(dsn)
    credentials, at, places = parts.netloc.rpartition("@")
    if "," not in places:
        return [dsn]
    return [
        parts._replace(netloc=f"{credentials}{at}{place}").geturl() for place in places.split(",")
    ]
