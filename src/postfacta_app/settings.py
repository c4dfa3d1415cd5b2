"""The only reader of the environment: settings, their rules, and where each may come from."""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from postfacta_core.aio import connecting
from postfacta_core.aio.ratelimit import parse_rates
from postfacta_core.aio.ratelimit_store import SharedStore
from postfacta_core.events import Mode
from postfacta_core.slo.prometheus import check_address

__all__ = [
    "AuthMode",
    "Settings",
    "SettingsError",
    "exposed_secrets",
    "is_loopback",
    "load_settings",
    "variable",
]

_PREFIX = "POSTFACTA_"
# The original service had these names, so they keep them; everything else carries the prefix.
_BARE = {
    "environment": "ENVIRONMENT",
    "app_version": "APP_VERSION",
    "log_level": "LOG_LEVEL",
    "log_format": "LOG_FORMAT",
}
# A name under our prefix that is no field: it says where fields may be read from.
_NOT_OURS = {"POSTFACTA_SECRETS_DIR"}


_SHORTEST_SECRET = 32  # Bytes: as many as HMAC-SHA-256 makes.
# From the documentation of Supabase, PostgREST and jwt.io: whoever knows one is whoever he likes.
_PUBLISHED: Final = {
    "super-secret-jwt-token-with-at-least-32-characters-long",
    "your-super-secret-jwt-token-with-at-least-32-characters-long",
    "reallyreallyreallyreallyverysafe",
    "a-string-secret-at-least-256-bits-long",
}
# In production: what one address, and whoever is signed in, may ask for.
_RATES = {"address": "1200/minute", "read": "600/minute", "write": "120/minute", "ingest": "600/minute"}


class SettingsError(Exception):
    """Settings that cannot be used; the text names each and says what to do. It holds no values of secrets."""


class AuthMode(StrEnum):
    """How callers prove who they are."""

    LOCAL = "local"
    SUPABASE = "supabase"
    NONE = "none"


def _split(value: object) -> object:
    return (
        tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
    )


def _level(value: object) -> object:
    known = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}
    return value.upper() if isinstance(value, str) and value.upper() in known else "INFO"


def _networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for number, text in enumerate(value, 1):
        try:
            is_sound = text == "unix" or ipaddress.ip_network(text).prefixlen > 0
        except ValueError:
            is_sound = False
        if not is_sound:
            msg = f"entry {number} is no network to trust: write 10.0.0.0/8, one address, or `unix`; never /0"
            raise ValueError(msg)
    return value


def _rates(value: str) -> str:
    try:
        if value:
            parse_rates(value)
    except ValueError:
        msg = "cannot be read as a rate: write 600/minute, or 10/second;1000/hour; empty sets no limit"
        raise ValueError(msg) from None
    return value


def _store(value: SecretStr) -> SecretStr:
    address = value.get_secret_value()
    try:
        SharedStore(address)  # To try it: it connects to nothing.
        is_sound = address.startswith("async+valkey")
    except Exception:  # noqa: BLE001 - each client has errors of its own, which may show the address
        is_sound = False
    if not is_sound:
        raise ValueError("is no store: write async+valkey://host:6379, and `pip install postfacta[valkey]`")
    return value


def _project(value: str) -> str:
    value = value.strip().rstrip("/")
    try:
        parts = urlsplit(value)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        is_sound = (
            bool(parts.hostname) and parts.port != 0 and not any(char in value for char in "@?# \t\r\n")
        )
    except ValueError:  # Such as a port of letters.
        is_safe = is_sound = False
    if value and not (is_safe and is_sound):
        raise ValueError("is no address of a project: write https://<ref>.supabase.co, and nothing after it")
    return value


def _jwt_secret(value: SecretStr) -> SecretStr:
    # An empty one is refused before.
    for secret in _lines(value):
        if len(secret.encode()) < _SHORTEST_SECRET:
            msg = f"is shorter than {_SHORTEST_SECRET} bytes, and so can be guessed: take the project's own, or make one"
            raise ValueError(msg)
        if secret.strip().lower() in _PUBLISHED:
            raise ValueError(
                "is a published example, with which anybody can sign tokens: make one of your own"
            )
    return value


def _lines(secret: SecretStr | None) -> tuple[str, ...]:
    return tuple(line for line in secret.get_secret_value().splitlines() if line) if secret else ()


def is_loopback(host: str) -> bool:
    """Whether an address, or `localhost`, is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _prometheus(value: SecretStr) -> SecretStr:
    return SecretStr(check_address(value.get_secret_value()))


def _postgresql(value: SecretStr) -> SecretStr:
    return SecretStr(connecting.check_address("it", value.get_secret_value()))


# An empty secret is a forgotten one: it must not open what it should close.
Secret = Annotated[SecretStr, Field(min_length=1)]
Dsn = Annotated[Secret, AfterValidator(_postgresql)]
# Longer, it would hold numbers that no clock can count with.
Rates = Annotated[str, StringConstraints(strip_whitespace=True, max_length=100), AfterValidator(_rates)]


class Settings(BaseModel):
    """Everything that can be set. Durations are seconds, sizes bytes.

    Each field is read from `POSTFACTA_<NAME>` (the first four from their bare name), from the file named by
    `POSTFACTA_<NAME>_FILE`, or from a file `<NAME>` in lower case in the secrets folder, in this order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str = Field("local", description="`local` relaxes cookies and allows auth mode `none`.")
    app_version: str = Field("", description="Shown in errors outside `local`, in metrics and spans.")
    log_level: Annotated[str, BeforeValidator(_level)] = Field(
        "INFO", description="Any case; unknown is INFO."
    )
    log_format: str = Field("text", description="`JSON` for one object a line; anything else is text.")
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    database_dsn: Dsn = Field(SecretStr("postgresql://127.0.0.1:5432/postfacta"), description="PostgreSQL.")
    database_owner_dsn: Dsn | None = Field(None, description="For `migrate`; default: `database_dsn`.")
    pool_max_size: int = Field(10, ge=2, le=500, description="Connections a process opens at most.")
    pool_acquire_timeout: float = Field(1.0, gt=0, le=60, description="Longest wait for a connection.")
    statement_timeout: float = Field(5.0, gt=0, le=300, description="Longest run of one statement.")
    drain_delay: float | None = Field(
        None, ge=0, le=300, description="Serve on, unready, for so long after SIGTERM; 5, in `local` 0."
    )
    drain_timeout: float = Field(20.0, gt=0, le=600, description="Then requests may take so long to end.")
    ready_requires_db: bool = Field(default=True, description="Whether readiness falls without the database.")
    auth_mode: AuthMode = Field(
        AuthMode.LOCAL, description="`local`, `supabase`, or `none` on a loopback address only."
    )
    db_url: Annotated[str, AfterValidator(_project)] = Field(
        "", description="The Supabase project that signs people in: `https://<ref>.supabase.co`."
    )
    db_key: Secret | None = Field(None, description="The project's publishable (or `anon`) key.")
    jwt_secret: Annotated[Secret, AfterValidator(_jwt_secret)] | None = Field(
        None, description="The project's own secret, if it signs by HS256; else it publishes its keys."
    )
    jwt_issuer: str = Field("", description="`iss` of its tokens, if that is not `<db_url>/auth/v1`.")
    register_open: bool = Field(default=False, description="Whether anybody may register, as a viewer.")
    cors_origins: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(
        (), description="Origins, comma separated, that browsers may call from."
    )
    cors_credentials: bool = Field(default=False, description="Whether those origins may send cookies.")
    trusted_proxies: Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_networks)] = Field(
        (), description="Networks, comma separated, whose `X-Forwarded-For` is true, or `unix` for a socket."
    )
    rate_address: Rates | None = Field(
        None, description="What an address may ask for; 1200/minute, in `local` no limit."
    )
    rate_read: Rates | None = Field(
        None, description="What who is signed in may read and search; 600/minute, in `local` no limit."
    )
    rate_write: Rates | None = Field(
        None, description="What who is signed in may write; 120/minute, in `local` no limit."
    )
    rate_ingest: Rates | None = Field(
        None, description="How often who is signed in may send signals; 600/minute, in `local` no limit."
    )
    rate_store: Annotated[Secret, AfterValidator(_store)] | None = Field(
        None, description="Valkey in which processes count together: `async+valkey://host:6379`."
    )
    secret_keys: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(
        (), description="Keys, comma separated, whose values in signals are secret, as `password` is."
    )
    alert_service_label: str = Field(
        "service", min_length=1, description="The label of an alert that names its service."
    )
    alert_environment_label: str = Field(
        "env", min_length=1, description="The label of an alert that names its environment."
    )
    shedding: Mode = Field(
        Mode.ENFORCE, description="Under overload: `enforce` refuses early, `shadow` counts only, or `off`."
    )
    traces: str = Field(
        "none", pattern="^(none|otlp)$", description="`otlp` sends spans; `OTEL_*` variables say where."
    )
    prometheus_url: Annotated[Secret, AfterValidator(_prometheus)] | None = Field(
        None,
        description="Prometheus whose view of the objectives `/reliability` shows; else this process only.",
    )
    metrics_token: Secret | None = Field(
        None,
        description="Bearer token for `/metrics`; without it, outside `local`, only this machine reads them.",
    )
    traffic_key: Secret | None = Field(None, description="Lets `X-Traffic-Class` be believed.")
    demo_dir: Path = Field(Path(".postfacta"), description="Where `postfacta demo` keeps its database.")
    postgres_bin: Path | None = Field(None, description="Folder of `initdb` and `postgres` for the demo.")
    max_header_bytes: int = Field(
        32_768, ge=1024, le=1_048_576, description="Longest request header section."
    )

    @property
    def is_local(self) -> bool:
        """Whether this is a developer's machine."""
        return self.environment == "local"

    @property
    def is_loopback(self) -> bool:
        """Whether it listens to this machine alone."""
        return is_loopback(self.host)

    @property
    def issuer(self) -> str:
        """Who signs the tokens of the Supabase project."""
        return self.jwt_issuer or f"{self.db_url}/auth/v1"

    @property
    def jwt_secrets(self) -> tuple[str, ...]:
        """What tokens may be signed with: while it is replaced, the new one and the former, one a line."""
        return _lines(self.jwt_secret)

    @property
    def metrics_tokens(self) -> tuple[str, ...]:
        """What a scrape may bring, as `jwt_secrets`."""
        return _lines(self.metrics_token)

    @property
    def traffic_keys(self) -> tuple[str, ...]:
        """What lets a traffic class be believed, as `jwt_secrets`."""
        return _lines(self.traffic_key)

    def rate(self, of: Literal["address", "read", "write", "ingest"]) -> str:
        """Tell what may be asked for; empty for as much as anybody likes."""
        given: str | None = getattr(self, f"rate_{of}")
        return given if given is not None else "" if self.is_local else _RATES[of]

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        if "*" in self.cors_origins and self.cors_credentials:
            msg = "POSTFACTA_CORS_ORIGINS: `*` cannot go with POSTFACTA_CORS_CREDENTIALS: list the origins"
            raise ValueError(msg)
        if self.auth_mode is AuthMode.NONE and not (self.is_local and self.is_loopback):
            msg = "POSTFACTA_AUTH_MODE: `none` needs ENVIRONMENT=local and a loopback POSTFACTA_HOST; else use `local`"
            raise ValueError(msg)
        if self.auth_mode is AuthMode.SUPABASE and not (self.db_url and self.db_key):
            msg = "POSTFACTA_AUTH_MODE: `supabase` needs POSTFACTA_DB_URL and POSTFACTA_DB_KEY, the project and its key"
            raise ValueError(msg)
        return self


def variable(field: str) -> str:
    """Name the environment variable of a field."""
    return _BARE.get(field, _PREFIX + field.upper())


def load_settings(environ: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Read the settings, by default from the process's environment; `overrides` (from the command line) win.

    Raises:
        SettingsError: If a value is invalid, a name under `POSTFACTA_` is unknown, or a file cannot be read.
    """
    environ = os.environ if environ is None else environ
    _refuse_unknown(environ)
    values: dict[str, object] = {}
    for field in Settings.model_fields:
        found = _look_up(field, environ)
        if found is not None:
            values[field] = found
    values.update({name: value for name, value in overrides.items() if value is not None})
    try:
        return Settings.model_validate(values)
    except ValidationError as invalid:
        raise SettingsError(_explain(invalid)) from None


def exposed_secrets(environ: Mapping[str, str] | None = None) -> list[Path]:
    """List the files of secrets that every user of this machine may read.

    Raises:
        SettingsError: If one cannot be found.
    """
    environ = os.environ if environ is None else environ
    secrets = (
        field for field, about in Settings.model_fields.items() if "SecretStr" in str(about.annotation)
    )
    found = (_file_of(field, environ) for field in secrets)
    return [file for file, _ in filter(None, found) if file.exists() and file.stat().st_mode & 0o004]


def _look_up(field: str, environ: Mapping[str, str]) -> str | None:
    if (name := variable(field)) in environ:
        return environ[name]
    found = _file_of(field, environ)
    return _read(*found) if found else None


def _file_of(field: str, environ: Mapping[str, str]) -> tuple[Path, str] | None:
    """Tell from which file a setting is read, and the variable that says so."""
    name = variable(field)
    if name in environ:
        return None
    if f"{name}_FILE" in environ:
        return Path(environ[f"{name}_FILE"]), f"{name}_FILE"
    if "POSTFACTA_SECRETS_DIR" in environ:
        folder = Path(environ["POSTFACTA_SECRETS_DIR"])
        if not folder.is_dir():
            raise SettingsError(f"POSTFACTA_SECRETS_DIR: {folder} is not a folder")
        if (file := folder / name.lower()).is_file():
            return file, "POSTFACTA_SECRETS_DIR"
    return None


def _read(file: Path, name: str) -> str:
    try:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{name}: cannot read {file}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
        raise SettingsError(msg) from None


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    known = {variable(field) for field in Settings.model_fields}
    known |= {f"{name}_FILE" for name in known} | _NOT_OURS
    lines: list[str] = []
    for name in sorted(environ):
        if name.startswith(_PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            lines.append(f"{name}: unknown setting" + (f"; did you mean {close[0]}?" if close else ""))
    if lines:
        raise SettingsError("\n".join(lines))


def _explain(invalid: ValidationError) -> str:
    # The input is left out on purpose: it may be a secret.
    lines: list[str] = []
    for error in invalid.errors(include_url=False, include_input=False, include_context=False):
        text = error["msg"].removeprefix("Value error, ")
        lines.append(f"{variable(str(error['loc'][0]))}: {text}" if error["loc"] else text)
    return "\n".join(lines)
