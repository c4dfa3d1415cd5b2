"""Reload secrets from their files without a restart; if a new value is unusable, the former stays."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

import anyio
from pydantic import SecretStr

from postfacta_adapters.limits import SharedStore
from postfacta_core.clock import WALL, Clock
from postfacta_core.drain.signals import has_terminal

from .settings import Settings, SettingsError, secret_files

_LOGGER: Final = logging.getLogger("postfacta_app")
_SECRETS: Final = (
    "database_dsn", "metrics_token", "traffic_key", "jwt_secret", "db_key", "rate_store", "prometheus_url",
)  # fmt: skip
# Files that addresses name: they are read for each new connection, to a store once they have changed.
_TLS: Final = {"database_tls": "database_dsn", "rate_store_tls": "rate_store"}
AGES: Final = (*_SECRETS, *_TLS)  # what `age` knows


class Rotation:
    """The settings of a running service, with its current secrets, which `read` reloads in intervals."""

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings] | None = None,
        *,
        every: float = 10.0,
        wall: Clock = WALL,
    ) -> None:
        self.current = settings
        self._read = read
        self._every = every
        self._wall = wall
        self._turn = threading.Lock()
        self._complaint = ""
        self._changed_at = _changes(settings) if read else {}

    def age(self, name: str) -> float | None:
        """Return the seconds since the oldest file of a secret was changed; None if it comes from none."""
        times = self._changed_at.get(name)
        return self._wall() - min(times) if times else None

    def reread(self) -> None:
        """Reload. It reads files, so call it in a thread."""
        if self._read is None:
            return
        with self._turn:
            try:
                found = self._read()
                self._changed_at = _changes(found)
            except SettingsError as error:
                self._complain("secrets.unreadable", str(error))
                return
            old = self.current
            new = {name: it for name in _SECRETS if (it := getattr(found, name)) != getattr(old, name)}
            gone = [name for name, it in new.items() if it is None]
            changed = {name: it for name, it in new.items() if it is not None}
            if _place(found) != _place(old):
                del changed["database_dsn"]
                self._complain("secrets.need_restart", "database_dsn: only its password can change")
            elif gone:
                self._complain("secrets.unreadable", f"{', '.join(gone)}: no longer set")
            else:
                self._complaint = ""
            if changed:
                self.current = old.model_copy(update=changed)
                _LOGGER.warning("secrets.changed", extra={"settings": ", ".join(changed)})

    def _complain(self, event: str, reason: str) -> None:
        if self._complaint != reason:
            self._complaint = reason
            _LOGGER.error(event, extra={"reason": reason})

    async def password(self) -> str:
        """Return the current database password; called for each new connection."""
        await anyio.to_thread.run_sync(self.reread)
        return password_of(self.current) or ""

    @asynccontextmanager
    async def watching(self, store: SharedStore | None = None) -> AsyncGenerator[None]:
        """Reload until the block ends, and on SIGHUP; renew the store's connections as their files change."""
        loop, wake, had_terminal = asyncio.get_running_loop(), asyncio.Event(), has_terminal()

        def hang_up() -> None:
            # From a closed terminal, or from an operator who replaced a secret.
            if had_terminal and not has_terminal():
                os.kill(os.getpid(), signal.SIGTERM)
            wake.set()

        async def keep_looking() -> None:
            before = self._of_store()
            while True:
                with anyio.move_on_after(self._every):
                    await wake.wait()
                wake.clear()
                await anyio.to_thread.run_sync(self.reread)
                now = self._of_store()
                if store and now != before:
                    await store.replace(now[0])
                before = now

        before = signal.getsignal(signal.SIGHUP)
        with suppress(ValueError, RuntimeError):
            loop.add_signal_handler(signal.SIGHUP, hang_up)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_looking, name="secrets")
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                if loop.remove_signal_handler(signal.SIGHUP):
                    signal.signal(signal.SIGHUP, before)

    def _of_store(self) -> tuple[str, object]:
        address = self.current.rate_store
        return (address.get_secret_value() if address else "", self._changed_at.get("rate_store_tls"))


def _changes(settings: Settings) -> dict[str, list[float]]:
    files: dict[str, Iterable[Path]] = {name: [file] for name, file in secret_files().items()}
    for name, of in _TLS.items():
        address: SecretStr | None = getattr(settings, of)
        named = parse_qs(urlsplit(address.get_secret_value()).query) if address else {}
        files[name] = [Path(it) for key, values in named.items() if key.startswith("ssl") for it in values]
    return {name: [it.stat().st_mtime for it in of if it.is_file()] for name, of in files.items()}


def password_of(settings: Settings) -> str | None:
    parts = urlsplit(settings.database_dsn.get_secret_value())
    _, separator, secret = parts.netloc.rpartition("@")[0].partition(":")
    return unquote(secret) if separator else next(iter(parse_qs(parts.query).get("password", [])), None)


def _place(settings: Settings) -> str:
    parts = urlsplit(settings.database_dsn.get_secret_value())
    who, _, where = parts.netloc.rpartition("@")
    query = "&".join(word for word in parts.query.split("&") if not word.startswith("password="))
    return urlunsplit(parts._replace(netloc=f"{who.partition(':')[0]}@{where}", query=query))
