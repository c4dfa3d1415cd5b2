"""Reload secrets from their files, so that replacing one needs no restart.

`database_dsn` (its password), `metrics_token`, `traffic_key` and `jwt_secret` are reloaded every ten seconds, on
SIGHUP, and the password for each new connection. If a value is unreadable or invalid, the former one stays.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

import anyio

from postfacta_core.terminal import has_terminal

from .settings import Settings, SettingsError

__all__ = ["Rotation", "password_of"]

_LOGGER: Final = logging.getLogger("postfacta_app")
_SECRETS: Final = ("database_dsn", "metrics_token", "traffic_key", "jwt_secret")
_EVERY: Final = 10.0


class Rotation:
    """The settings of a running service, with its current secrets.

    Args:
        settings: The settings it was started with.
        read: Reloads them; may raise `SettingsError`. None disables reloading.
        every: Seconds between reloads.
    """

    def __init__(
        self, settings: Settings, read: Callable[[], Settings] | None = None, *, every: float = _EVERY
    ) -> None:
        self._current = settings
        self._read = read
        self._every = every
        self._turn = threading.Lock()
        self._complaint = ""

    @property
    def current(self) -> Settings:
        """The settings with the secrets last read."""
        return self._current

    def reread(self) -> None:
        """Reload. It reads files, so call it in a thread."""
        if self._read is None:
            return
        with self._turn:
            try:
                found = self._read()
            except SettingsError as error:
                self._complain("secrets.unreadable", str(error))
                return
            old = self._current
            changed = [name for name in _SECRETS if getattr(found, name) != getattr(old, name)]
            if _place(found) != _place(old):
                changed.remove("database_dsn")
                self._complain("secrets.need_restart", "database_dsn: only its password can change")
            else:
                self._complaint = ""
            if changed:
                self._current = old.model_copy(update={name: getattr(found, name) for name in changed})
                _LOGGER.warning("secrets.changed", extra={"settings": ", ".join(changed)})

    def _complain(self, event: str, reason: str) -> None:
        if self._complaint != reason:
            self._complaint = reason
            _LOGGER.error(event, extra={"reason": reason})

    async def password(self) -> str:
        """Return the current database password; called for each new connection."""
        await anyio.to_thread.run_sync(self.reread)
        return password_of(self._current) or ""

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None]:
        """Reload until the block ends, and on SIGHUP if this is the main thread."""
        loop, wake, had_terminal = asyncio.get_running_loop(), asyncio.Event(), has_terminal()

        def hang_up() -> None:
            # From a closed terminal, or from an operator who replaced a secret.
            if had_terminal and not has_terminal():
                os.kill(os.getpid(), signal.SIGTERM)
            wake.set()

        async def keep_looking() -> None:
            while True:
                with anyio.move_on_after(self._every):
                    await wake.wait()
                wake.clear()
                await anyio.to_thread.run_sync(self.reread)

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


def password_of(settings: Settings) -> str | None:
    """Return the password in the database's DSN, if any."""
    parts = urlsplit(settings.database_dsn.get_secret_value())
    _, separator, secret = parts.netloc.rpartition("@")[0].partition(":")
    return unquote(secret) if separator else next(iter(parse_qs(parts.query).get("password", [])), None)


def _place(settings: Settings) -> str:
    """Return the database's DSN without the password."""
    parts = urlsplit(settings.database_dsn.get_secret_value())
    who, _, where = parts.netloc.rpartition("@")
    query = "&".join(word for word in parts.query.split("&") if not word.startswith("password="))
    return urlunsplit(parts._replace(netloc=f"{who.partition(':')[0]}@{where}", query=query))
