"""Reload secrets from their files without a restart: which settings those are, and what a change may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

import anyio
from pydantic import SecretStr

from postfacta_adapters.limits import SharedStore
from postfacta_adapters.secrets import Reloaded
from postfacta_core.clock import WALL, Clock

from .settings import Settings, SettingsError, secret_files

_SECRETS: Final = (
    "database_dsn", "metrics_token", "traffic_key", "jwt_secret", "db_key", "rate_store", "prometheus_url",
)  # fmt: skip
# Files that addresses name: they are read for each new connection, to a store once they have changed.
_TLS: Final = {"database_tls": "database_dsn", "rate_store_tls": "rate_store"}
AGES: Final = (*_SECRETS, *_TLS)  # what `age` knows


class Rotation(Reloaded[Settings]):
    """The settings of a running service, with its current secrets, which `read` reloads in intervals."""

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings] | None = None,
        *,
        every: float = 10.0,
        wall: Clock = WALL,
    ) -> None:
        super().__init__(
            settings,
            read or (lambda: settings),
            _SECRETS,
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
    for name, of in _TLS.items():
        address: SecretStr | None = getattr(settings, of)
        named = parse_qs(urlsplit(address.get_secret_value()).query) if address else {}
        files[name] = [Path(it) for key, values in named.items() if key.startswith("ssl") for it in values]
    return files


def password_of(settings: Settings) -> str | None:
    parts = urlsplit(settings.database_dsn.get_secret_value())
    _, separator, secret = parts.netloc.rpartition("@")[0].partition(":")
    return unquote(secret) if separator else next(iter(parse_qs(parts.query).get("password", [])), None)


def _is_elsewhere(name: str, former: SecretStr, new: SecretStr) -> str:
    is_same = name != "database_dsn" or _place(former) == _place(new)
    return "" if is_same else "only its password can change"


def _place(address: SecretStr) -> str:
    parts = urlsplit(address.get_secret_value())
    who, _, where = parts.netloc.rpartition("@")
    query = "&".join(word for word in parts.query.split("&") if not word.startswith("password="))
    return urlunsplit(parts._replace(netloc=f"{who.partition(':')[0]}@{where}", query=query))
