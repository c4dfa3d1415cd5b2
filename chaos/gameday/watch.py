"""Writes down when each alert was seen, fired and was gone, by asking Prometheus again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import httpx2

from chaos.gameday.judge import Episode

__all__ = ["Watch", "advance"]

_EVERY = 0.1
_Key = frozenset[tuple[str, str]]
Ask = Callable[[], Sequence[Mapping[str, Any]]]


def advance(
    open_: Mapping[_Key, Episode], alerts: Sequence[Mapping[str, Any]], now: float
) -> dict[_Key, Episode]:
    """Record the state of each alert now.

    New ones are seen, some fire, and those that are gone have ended.

    Args:
        open_: What was known; those that have ended are no longer among them.
        alerts: What Prometheus lists.
        now: The moment.
    """
    listed = {frozenset(one["labels"].items()): one for one in alerts}
    after = {
        key: replace(episode, ended=now) for key, episode in open_.items() if key not in listed
    }
    for key, one in listed.items():
        known = open_.get(key) or Episode(
            labels=one["labels"], annotations=one["annotations"], seen=now
        )
        is_new = one["state"] == "firing" and known.fired is None
        after[key] = replace(known, fired=now) if is_new else known
    return after


class Watch:
    """Looks ten times a second, from a thread of its own; a context manager.

    Args:
        began: What `time.monotonic` said at the start of the day.
    """

    def __init__(self, began: float) -> None:
        self._began = began
        self._ask: Ask | None = None
        self._open: dict[_Key, Episode] = {}
        self._ended: list[Episode] = []
        self._blind = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30.0)

    def now(self) -> float:
        """Return the seconds since the start of the day."""
        return time.monotonic() - self._began

    def look_at(self, ask: Ask | None) -> None:
        """Ask this one from now on; what the one before listed has ended with it."""
        with self._lock:
            self._close({})
            self._ask = ask

    def episodes(self, *, since: float = 0.0) -> tuple[Episode, ...]:
        """List the alerts that were there at some time after a moment."""
        with self._lock:
            every = (*self._ended, *self._open.values())
        return tuple(one for one in every if one.ended is None or one.ended >= since)

    def present(self) -> tuple[Episode, ...]:
        """List the alerts that are pending or firing."""
        with self._lock:
            return tuple(self._open.values())

    @property
    def blind(self) -> float:
        """How many seconds no answer came, though queries were sent."""
        with self._lock:
            return self._blind

    def _run(self) -> None:
        last = self.now()
        while not self._stop.wait(_EVERY):
            with self._lock:
                ask = self._ask
            if ask is None:
                last = self.now()
                continue
            try:
                alerts = ask()
            except (httpx2.HTTPError, ValueError, KeyError):
                alerts = None
            now = self.now()
            with self._lock:
                if alerts is None:
                    self._blind += now - last
                elif ask is self._ask:
                    self._close(advance(self._open, alerts, now))
            last = now

    def _close(self, after: Mapping[_Key, Episode]) -> None:
        now = self.now()
        gone = [replace(one, ended=now) for key, one in self._open.items() if key not in after]
        self._ended += gone + [one for one in after.values() if one.ended is not None]
        self._open = {key: one for key, one in after.items() if one.ended is None}
