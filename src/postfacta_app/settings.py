"""The settings: their rules, their sources, and the secrets that are reloaded.

Only this module reads the environment.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Set as AbstractSet
from contextlib import AbstractAsyncContextManager, suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

import anyio
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from postfacta_adapters.limits import SharedStore
from postfacta_core.clock import WALL, Clock
from postfacta_core.events import Mode
from postfacta_core.limits.rate import parse_rates
from postfacta_postgres import connecting
from postfacta_slo.status.prometheus import check_address
from postfacta_web.secrets import Reloaded

_PREFIX = "POSTFACTA_"
# Names of the original service, kept without the prefix of all others.
_BARE = {"environment", "app_version", "log_level", "log_format"}
_SHORTEST_SECRET: Final = 32  # Bytes, the output size of HMAC-SHA-256.
# From the documentation of Supabase, PostgREST and jwt.io: with one of these, anyone can forge
# tokens.
_PUBLISHED: Final = {
    "super-secret-jwt-token-with-at-least-32-characters-long",
    "your-super-secret-jwt-token-with-at-least-32-characters-long",
    "reallyreallyreallyreallyverysafe",
    "a-string-secret-at-least-256-bits-long",
}
RateOf = Literal["address", "read", "write", "ingest"]
# The limits in production.
_RATES = {
    "address": "1200/minute",
    "read": "600/minute",
    "write": "120/minute",
    "ingest": "600/minute",
}


class SettingsError(Exception):
    """Invalid settings; the message names each and how to fix it, without values of secrets."""


class AuthMode(StrEnum):
    """How callers authenticate."""

    LOCAL = "local"
    SUPABASE = "supabase"
    NONE = "none"


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(entry.strip() for entry in value.split(",") if entry.strip())


def _level(value: object) -> object:
    levels = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
    level = value.upper() if isinstance(value, str) else ""
    return level if level in levels else "INFO"


def _checked(check: Callable[[str], str]) -> AfterValidator:
    return AfterValidator(lambda value: SecretStr(check(value.get_secret_value())))


def _sound(is_sound: Callable[[str], object], message: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        with suppress(Exception):  # Each client has its own errors, which may contain the value.
            if is_sound(value):
                return value
        raise ValueError(message)

    return check


def _is_project(value: str) -> bool:
    parts = urlsplit(value)
    host = parts.hostname or ""
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    is_plain = parts.port != 0 and not any(char in value for char in "@?# \t\r\n")
    return not value or (is_safe and is_plain and bool(host))


def _jwt_secret(value: str) -> str:
    # Empty ones are rejected earlier.
    for secret in filter(None, value.splitlines()):
        if len(secret.encode()) < _SHORTEST_SECRET:
            msg = (
                f"is shorter than {_SHORTEST_SECRET} bytes, and so can be guessed: use the"
                " project's own, or generate one"
            )
            raise ValueError(msg)
        if secret.strip().lower() in _PUBLISHED:
            raise ValueError(
                "is a published example, with which anyone can sign tokens: generate your own"
            )
    return value


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# An empty secret is a mistake, and must not grant access.
Secret = Annotated[SecretStr, Field(min_length=1)]
Dsn = Annotated[Secret, _checked(partial(connecting.check_address, "it"))]
Listed = Annotated[tuple[str, ...], BeforeValidator(_split)]
_network = _sound(
    lambda text: text == "unix" or ipaddress.ip_network(text).prefixlen > 0,
    "is not a valid network: use 10.0.0.0/8, one address, or `unix`; never /0",
)
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], BeforeValidator(_split)]
_rate = _sound(
    lambda text: not text or parse_rates(text),
    "is not a valid rate: use 600/minute, or 10/second;1000/hour; empty for no limit",
)
# Longer texts could hold numbers beyond any clock.
Rates = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=100), AfterValidator(_rate)
]
_store = _sound(
    # To construct a store does not connect.
    lambda address: address.startswith("async+valkey") and SharedStore(address),
    "is not a valid store: use async+valkey://host:6379 and the extra `valkey`",
)
_project = _sound(
    _is_project, "is not a project URL: use https://<ref>.supabase.co, without a path"
)
Project = Annotated[str, AfterValidator(lambda url: _project(url.strip().rstrip("/")))]


class Settings(BaseModel, frozen=True, extra="forbid"):
    """All settings, each described in docs/reference/settings.md.

    Durations are in seconds, sizes in bytes.

    Each field is read from `POSTFACTA_<NAME>` (the first four from their bare name), from the file
    named by `POSTFACTA_<NAME>_FILE`, or from a file `<NAME>` in lower case in the secrets folder,
    in this order.
    """

    environment: str = "local"  # which relaxes cookies and allows auth mode `none`
    app_version: str = ""
    log_level: Annotated[str, BeforeValidator(_level)] = "INFO"
    log_format: str = "text"  # `JSON` for one object per line; anything else means text
    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8080, ge=0, le=65535)  # 0 picks a free one
    database_dsn: Dsn = SecretStr("postgresql://127.0.0.1:5432/postfacta")
    database_owner_dsn: Dsn | None = None  # for `migrate`
    pool_max_size: int = Field(10, ge=2, le=500)  # connections of each process
    pool_acquire_timeout: float = Field(1.0, gt=0, le=60)
    statement_timeout: float = Field(5.0, gt=0, le=300)
    # To keep serving, unready; 5, or 0 in `local`.
    drain_delay: float | None = Field(None, ge=0, le=300)
    drain_timeout: float = Field(20.0, gt=0, le=600)  # for requests to finish after that
    ready_requires_db: bool = True
    auth_mode: AuthMode = AuthMode.LOCAL
    db_url: Project = ""  # the Supabase project that signs people in
    db_key: Secret | None = None  # its publishable (or `anon`) key
    jwt_secret: Annotated[Secret, _checked(_jwt_secret)] | None = None  # if it signs by HS256
    jwt_issuer: str = ""  # of its tokens, if that is not `<db_url>/auth/v1`
    register_open: bool = False  # whether anyone may register, as a viewer
    cors_origins: Listed = ()  # that browsers may call from
    cors_credentials: bool = False  # whether those may send cookies
    trusted_proxies: Networks = ()  # networks, or `unix`
    trusted_traces: Networks = ()  # the same
    rate_address: Rates | None = None
    rate_read: Rates | None = None  # per signed-in user, like those below
    rate_write: Rates | None = None
    rate_ingest: Rates | None = None
    rate_store: Annotated[Secret, _checked(_store)] | None = None  # counters of several processes
    secret_keys: Listed = ()  # whose values in signals are redacted, beside `password` and the like
    alert_service_label: str = Field("service", min_length=1)
    alert_environment_label: str = Field("env", min_length=1)
    signal_mappings: Path | None = None  # how other JSON becomes signals
    shedding: Mode = Mode.ENFORCE
    traces: str = Field("none", pattern="^(none|otlp)$")
    prometheus_url: Annotated[Secret, _checked(check_address)] | None = None
    metrics_token: Secret | None = None
    traffic_key: Secret | None = None  # with which `X-Traffic-Class` is trusted
    demo_dir: Path = Path(".postfacta")
    postgres_bin: Path | None = None
    flags: Path | None = None  # features that are turned off

    @property
    def is_local(self) -> bool:
        return self.environment == "local"

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def delay(self) -> float:
        """Return the drain delay in seconds, by default that of the environment."""
        if self.drain_delay is not None:
            return self.drain_delay
        return 0.0 if self.is_local else 5.0

    @property
    def issuer(self) -> str:
        return self.jwt_issuer or f"{self.db_url}/auth/v1"

    def valid(
        self, secret: Literal["jwt_secret", "metrics_token", "prometheus_url", "traffic_key"]
    ) -> tuple[str, ...]:
        """Return the values of a secret that are valid.

        In a rotation the new and the former one, one per line.
        """
        value: SecretStr | None = getattr(self, secret)
        lines = value.get_secret_value().splitlines() if value else []
        return tuple(filter(None, lines))

    def rate(self, kind: RateOf) -> str:
        """Return the limit of this kind; empty for no limit."""
        limit: str | None = getattr(self, f"rate_{kind}")
        if limit is not None:
            return limit
        return "" if self.is_local else _RATES[kind]

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        """Refuse settings that are valid alone, but not together."""
        if self.cors_credentials and {"*", "null"}.intersection(self.cors_origins):
            msg = (
                "POSTFACTA_CORS_ORIGINS: neither `*` nor `null` can be combined with"
                " POSTFACTA_CORS_CREDENTIALS: list the origins"
            )
            raise ValueError(msg)
        if self.auth_mode is AuthMode.NONE and not (self.is_local and self.is_loopback):
            msg = (
                "POSTFACTA_AUTH_MODE: `none` requires ENVIRONMENT=local and a loopback"
                " POSTFACTA_HOST; otherwise use `local`"
            )
            raise ValueError(msg)
        if self.auth_mode is AuthMode.SUPABASE and not (self.db_url and self.db_key):
            msg = (
                "POSTFACTA_AUTH_MODE: `supabase` requires POSTFACTA_DB_URL and POSTFACTA_DB_KEY,"
                " the project and its key"
            )
            raise ValueError(msg)
        return self


Read = Callable[[], Settings]  # reads them anew
_SECRETS: Final = [
    name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)
]


def variable(field: str) -> str:
    return ("" if field in _BARE else _PREFIX) + field.upper()


def load_settings(environ: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Read the settings, by default from the environment; `overrides` (from the command line) win.

    Raise `SettingsError` if a value is invalid, a name under `POSTFACTA_` is unknown, or a file
    cannot be read.
    """
    environ = os.environ if environ is None else environ
    names = {variable(field) for field in Settings.model_fields}
    known_names = names | {f"{name}_FILE" for name in names} | {"POSTFACTA_SECRETS_DIR"}
    lines: list[str] = []
    for name in sorted(environ):
        if name.startswith(_PREFIX) and name not in known_names:
            close = difflib.get_close_matches(name, known_names, n=1)
            suggestion = f"; did you mean {close[0]}?" if close else ""
            lines.append(f"{name}: unknown setting{suggestion}")
    if lines:
        raise SettingsError("\n".join(lines))
    values: dict[str, object] = {field: _look_up(field, environ) for field in Settings.model_fields}
    values |= {field: value for field, value in overrides.items() if value is not None}
    present = {field: value for field, value in values.items() if value is not None}
    try:
        return Settings.model_validate(present)
    except ValidationError as invalid:
        raise SettingsError("\n".join(_messages(invalid))) from None


def _messages(invalid: ValidationError) -> Iterator[str]:
    """Return a line for each error, without the input, which may be a secret."""
    for error in invalid.errors(include_url=False, include_input=False, include_context=False):
        place = [
            f"entry {part + 1}" if isinstance(part, int) else f"{variable(part)}:"
            for part in error["loc"]
        ]
        yield " ".join((*place, error["msg"].removeprefix("Value error, ")))


def secret_files() -> dict[str, Path]:
    return {field: file for field in _SECRETS if (file := _file_of(field, os.environ))}


def exposed_secrets() -> list[Path]:
    """List the secret files that every user of this machine can read or change."""
    files = secret_files().values()
    return [file for file in files if file.exists() and file.stat().st_mode & 0o006]


def _look_up(field: str, environ: Mapping[str, str]) -> str | None:
    name = variable(field)
    if (file := _file_of(field, environ)) is None:
        return environ.get(name)
    try:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        source = f"{name}_FILE" if f"{name}_FILE" in environ else "POSTFACTA_SECRETS_DIR"
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SettingsError(f"{source}: cannot read {file}: {reason}") from None


def _file_of(field: str, environ: Mapping[str, str]) -> Path | None:
    name = variable(field)
    if name in environ:
        return None
    if f"{name}_FILE" in environ:
        return Path(environ[f"{name}_FILE"])
    if "POSTFACTA_SECRETS_DIR" in environ:
        folder = Path(environ["POSTFACTA_SECRETS_DIR"])
        if not folder.is_dir():
            raise SettingsError(f"POSTFACTA_SECRETS_DIR: {folder} is not a folder")
        if (file := folder / name.lower()).is_file():
            return file
    return None


# Secrets are reloaded from their files without a restart: which those are, and what a change may
# be.

_RELOADED: Final = [name for name in _SECRETS if name != "database_owner_dsn"]
# Files that addresses name: they are read for each new connection, to a store once they have
# changed.
_TLS: Final = {"database_tls": "database_dsn", "rate_store_tls": "rate_store"}
AGES: Final = (*_RELOADED, *_TLS)  # what `age` knows


class Rotation(Reloaded[Settings]):
    """The settings of a running service, with its secrets, which `read` reloads in intervals."""

    def __init__(
        self,
        settings: Settings,
        read: Read | None = None,
        *,
        every: float = 10.0,
        wall: Clock = WALL,
    ) -> None:
        super().__init__(
            settings,
            read or (lambda: settings),
            _RELOADED,
            replace=lambda former, new: former.model_copy(update=new),
            files=_files if read else None,
            needs_restart=_is_elsewhere,
            explains=SettingsError,
            every=every,
            wall=wall,
        )

    async def password(self) -> str:
        """Return the current database password; called for each new connection."""
        await anyio.to_thread.run_sync(self.reread)
        return password_of(self.current) or ""

    def renewing(self, store: SharedStore | None) -> AbstractAsyncContextManager[None]:
        """Watch, and renew the store's connections as its address or a file of it changes."""

        async def renew(names: AbstractSet[str]) -> None:
            address = self.current.rate_store
            if store and address and names & {"rate_store", "rate_store_tls"}:
                await store.replace(address.get_secret_value())

        return self.watching(renew)


def _files(settings: Settings) -> Mapping[str, Iterable[Path]]:
    files: dict[str, Iterable[Path]] = {name: [file] for name, file in secret_files().items()}
    for name, field in _TLS.items():
        address: SecretStr | None = getattr(settings, field)
        query = urlsplit(address.get_secret_value()).query if address else ""
        files[name] = [
            Path(file)
            for parameter, values in parse_qs(query).items()
            if parameter.startswith("ssl")
            for file in values
        ]
    return files


def password_of(settings: Settings) -> str | None:
    parts = urlsplit(settings.database_dsn.get_secret_value())
    _, separator, secret = parts.netloc.rpartition("@")[0].partition(":")
    if separator:
        return unquote(secret)
    passwords = parse_qs(parts.query).get("password", [])
    return passwords[0] if passwords else None


def _is_elsewhere(name: str, former: SecretStr, new: SecretStr) -> str:
    is_same = name != "database_dsn" or _place(former) == _place(new)
    return "" if is_same else "only its password can change"


def _place(address: SecretStr) -> tuple[object, ...]:
    parts = urlsplit(address.get_secret_value())
    query = [
        parameter for parameter in parts.query.split("&") if not parameter.startswith("password=")
    ]
    return parts.scheme, parts.username, parts.netloc.rpartition("@")[2], parts.path, query
