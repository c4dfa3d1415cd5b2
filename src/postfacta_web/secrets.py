"""Read secrets again while a service runs; if a new value cannot be used, the former stays.

They are read in intervals, on SIGHUP and on demand. What changed is logged by name, and what cannot
be used once; no value is.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import threading
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Set as AbstractSet,
)
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, cast

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from postfacta_core.clock import WALL, Clock
from postfacta_core.drain.signals import has_terminal
from postfacta_core.validation import validation

__all__ = ["Reloaded", "Renew"]

T = TypeVar("T")

_LOG: Final = logging.getLogger("postfacta")
Renew = Callable[[AbstractSet[str]], Awaitable[object]]
"""Renews what keeps a secret, given the names whose value or files changed."""


class Reloaded(Generic[T]):
    """A record whose secrets change while the service runs, such as its settings.

        @dataclass(frozen=True)
        class Secrets:
            metrics_token: str
            mail_key: str

        def read() -> Secrets:
            folder = Path("/run/secrets") return Secrets(*((folder / name).read_text().strip() for
            name in ("metrics-token", "mail-key")))

        secrets = Reloaded(read(), read, ["metrics_token", "mail_key"])
        app = harden(web, service="billing", resources=[secrets.watching()])

    Read `secrets.current.mail_key` where it is used, each time: what keeps the value keeps the
    former one.

    Args:
        value: What holds at first.
        read: Returns the record anew, in a worker thread. If it raises, the former values stay.
        names: The attributes that may change. One that becomes None or empty stays as it was.
        replace: Returns a record with some attributes changed. By default that of a dataclass; for
            pydantic it is `lambda record, new: record.model_copy(update=new)`.
        files: Returns the files of a record, by names for `age`: of its attributes, or of others,
            such as a certificate that an address names. It is called after each `read`, in the same
            thread.
        needs_restart: Given a name, the former value and the new one, returns why the new one
            cannot be used before a restart; empty if it can. The text is logged.
        explains: Errors of `read` whose text is logged. Of others only the class is, as a text may
            repeat a secret.
        every: Seconds between two readings.
        wall: Seconds since the epoch, as the times of files.

    Attributes:
        current: The record with the secrets that hold now.
    """

    def __init__(
        self,
        value: T,
        read: Callable[[], T],
        names: Collection[str],
        *,
        replace: Callable[[T, Mapping[str, Any]], T] | None = None,
        files: Callable[[T], Mapping[str, Iterable[str | Path]]] | None = None,
        needs_restart: Callable[[str, Any, Any], str] | None = None,
        explains: type[Exception] | tuple[type[Exception], ...] = OSError,
        every: float = 10.0,
        wall: Clock = WALL,
    ) -> None:
        self._names = validation.texts("Reloaded.names", names, example='["metrics_token"]')
        for name in self._names:
            if not hasattr(value, name):
                rule = "attributes of the value"
                validation.refuse("Reloaded.names", name, rule, example='["metrics_token"]')
        validation.function("Reloaded.read", read, example="a function that reads it anew")
        validation.functions("Reloaded", wall=wall)
        optional = {"replace": replace, "files": files, "needs_restart": needs_restart}
        validation.functions(
            "Reloaded",
            **{field: function for field, function in optional.items() if function is not None},
        )
        self.current: T = value
        self._read = read
        self._replace = replace or _replaced
        self._files = files
        self._needs_restart = needs_restart
        self._explains = validation.error_types(
            "Reloaded.explains", explains, example="explains=OSError"
        )
        self._every = validation.seconds("Reloaded.every", every, example="every=10.0")
        self._wall = wall
        self._turn = threading.Lock()
        self._complaint = ""
        self._wake = anyio.Event()
        self._changed_at = self._times(value)

    def age(self, name: str) -> float | None:
        """Return the seconds since the oldest file of a name was changed; None if it has none."""
        times = self._changed_at.get(name)
        return self._wall() - min(times) if times else None

    def reread(self) -> None:
        """Read now, such as before a new connection; it reads files, so call it in a thread."""
        with self._turn:
            try:
                fresh = self._read()
                self._changed_at = self._times(fresh)
                self._use(fresh)
            except Exception as error:  # noqa: BLE001 - what reads is foreign code
                reason = str(error) if isinstance(error, self._explains) else ""
                self._complain("secrets.unreadable", reason or type(error).__name__)

    @asynccontextmanager
    async def watching(self, renew: Renew | None = None) -> AsyncGenerator[None]:
        """Read in intervals, and on SIGHUP, until the block ends.

        A resource for `harden(resources=[...])`.

        A SIGHUP that comes because the terminal of the process was closed stops the service as
        well, by a SIGTERM to itself. Afterwards SIGHUP does what it did before. Outside of the main
        thread there are intervals only.

        Args:
            renew: Called with the names whose value or files changed, to renew what keeps a secret,
                such as a client with open connections. If it raises, that is logged once, and it is
                called again after each reading.
        """
        self._wake = anyio.Event()
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._catch_hang_ups, name="secrets: SIGHUP")
            tasks.start_soon(self._keep_reading, renew, name="secrets")
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    async def _keep_reading(self, renew: Renew | None) -> None:
        before = self._observed()
        is_renewed = True
        while True:
            with anyio.move_on_after(self._every):
                await self._wake.wait()
            self._wake = anyio.Event()
            await anyio.to_thread.run_sync(self.reread)
            now = self._observed()
            names = {
                name for name in now.keys() | before.keys() if now.get(name) != before.get(name)
            }
            try:
                if renew is not None and names:
                    await renew(names)
                before = now
                is_renewed = True
            except Exception as error:  # noqa: BLE001 - foreign code
                if is_renewed:
                    fields = {
                        "settings": ", ".join(sorted(names)),
                        "error_type": type(error).__name__,
                    }
                    _LOG.error("secrets.not_renewed", extra=fields)
                is_renewed = False

    async def _catch_hang_ups(self, *, task_status: TaskStatus[None]) -> None:
        if threading.current_thread() is not threading.main_thread():
            task_status.started()
            return
        had_terminal = has_terminal()
        former = signal.getsignal(signal.SIGHUP)
        try:
            with anyio.open_signal_receiver(signal.SIGHUP) as hang_ups:
                task_status.started()
                async for _ in hang_ups:
                    # From a closed terminal, or from an operator who replaced a secret.
                    if had_terminal and not has_terminal():
                        os.kill(os.getpid(), signal.SIGTERM)
                    self._wake.set()
        finally:
            # The receiver has put the default in place.
            if former is not None:
                signal.signal(signal.SIGHUP, former)

    def _use(self, fresh: T) -> None:
        new: dict[str, Any] = {}
        gone: list[str] = []
        fixed: list[str] = []
        for name in self._names:
            former = getattr(self.current, name)
            now = getattr(fresh, name)
            if now is None or now == "":
                gone += [name] if former != now else []
            elif now != former and (why := self._reason(name, former, now)):
                fixed.append(f"{name}: {why}")
            elif now != former:
                new[name] = now
        replaced = self._replace(self.current, new) if new else self.current
        if fixed:
            self._complain("secrets.need_restart", "; ".join(fixed))
        elif gone:
            self._complain("secrets.unreadable", f"{', '.join(gone)}: no longer set")
        else:
            self._complaint = ""
        self.current = replaced
        if new:
            _LOG.warning("secrets.changed", extra={"settings": ", ".join(new)})

    def _reason(self, name: str, former: object, now: object) -> str:
        return "" if self._needs_restart is None else self._needs_restart(name, former, now)

    def _complain(self, event: str, reason: str) -> None:
        if self._complaint != reason:
            self._complaint = reason
            _LOG.error(event, extra={"reason": reason})

    def _times(self, value: T) -> dict[str, list[float]]:
        if self._files is None:
            return {}
        paths = {name: map(Path, group) for name, group in self._files(value).items()}
        return {
            name: [path.stat().st_mtime for path in group if path.is_file()]
            for name, group in paths.items()
        }

    def _observed(self) -> dict[str, tuple[object, object]]:
        names = {*self._names, *self._changed_at}
        return {
            name: (getattr(self.current, name, None), self._changed_at.get(name)) for name in names
        }


def _replaced(record: T, new: Mapping[str, Any]) -> T:
    return cast("T", dataclasses.replace(cast("Any", record), **new))
