"""Decide when a stopping service stops listening, cancels what runs, and closes its resources.

    signal ── drain_delay ──> stops ── drain_timeout ──> cancels ── close_timeout ──> gone

Each part ends earlier if there is nothing left to wait for. Moments are those of a monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ..events import PhaseChanged
from ..validation import validation


class Phase(StrEnum):
    """A phase of a service's life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"


_ORDER: Final = tuple(Phase)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainLimits:
    """How long each part of a drain may take, in seconds.

    The server's own graceful timeout must be longer than `drain_timeout` and `close_timeout`
    together (uvicorn), or than all three (granian and gunicorn, which count from the signal).

    Attributes:
        drain_delay: How long to serve on while unready. It must exceed the load balancer's check
            interval times the failures it waits for; 0 for a service without one.
        drain_timeout: After it, requests still under way are cancelled.
        close_timeout: For all resources together, once the last request has ended.
    """

    drain_delay: float = 5.0
    drain_timeout: float = 20.0
    close_timeout: float = 5.0

    def __post_init__(self) -> None:
        for name, example in (("drain_delay", "5.0"), ("drain_timeout", "20.0")):
            value = getattr(self, name)
            validation.number(f"DrainLimits.{name}", value, at_least=0, example=f"{name}={example}")
        validation.seconds(
            "DrainLimits.close_timeout", self.close_timeout, example="close_timeout=5.0"
        )

    @property
    def total(self) -> float:
        """The longest that a drain takes from the signal on."""
        return self.drain_delay + self.drain_timeout + self.close_timeout


class Course:
    """The schedule of one process: the phases that it has reached, and the deadlines of its drain.

    Every method but `news` may be called from any thread and from a signal handler, also in the
    midst of another: what has come is only ever added to.
    """

    def __init__(self, limits: DrainLimits) -> None:
        self.limits: DrainLimits = limits
        self.is_draining: bool = False
        self.server_stops_at: float = math.inf  # When the server gets the signal.
        self._announced = Phase.STARTING
        self._since: dict[Phase, float] = {}

    @property
    def phase(self) -> Phase:
        return next((phase for phase in reversed(_ORDER) if phase in self._since), Phase.STARTING)

    @property
    def drain_began_at(self) -> float:
        """When it was asked to stop, or the server stopped by itself; `inf` before."""
        return self._since.get(Phase.DRAINING, self._since.get(Phase.STOPPING, math.inf))

    @property
    def cancels_at(self) -> float:
        return self.server_stops_at + self.limits.drain_timeout

    @property
    def gone_at(self) -> float:
        return self.cancels_at + self.limits.close_timeout

    def start(self, now: float) -> bool:
        """Mark the service ready unless it drains; return whether it is."""
        return self._move(Phase.READY, now)

    def drain(self, now: float, *, at_once: bool = False) -> bool:
        """Begin to drain, without a delay during startup. A second call ends the delay.

        Return whether it was the first.
        """
        delay = self.limits.drain_delay if self.phase is Phase.READY and not at_once else 0.0
        is_first = self._move(Phase.DRAINING, now)
        self.server_stops_at = min(self.server_stops_at, now + delay if is_first else now)
        return is_first

    def stop(self, now: float) -> bool:
        """Record that the server has stopped listening, which ends the delay."""
        self.server_stops_at = min(self.server_stops_at, now)
        return self._move(Phase.STOPPING, now)

    def end(self, now: float) -> bool:
        self.stop(now)
        return self._move(Phase.STOPPED, now)

    def closes_by(self, now: float) -> float:
        return min(now + self.limits.close_timeout, max(self.gone_at, now))

    def news(self) -> Iterator[PhaseChanged]:
        """Yield the changes since the last call.

        For one thread at a time, and no signal handler.
        """
        for phase in _ORDER[_ORDER.index(self._announced) + 1 :]:
            if phase in self._since:
                former = self._announced
                self._announced = phase
                yield PhaseChanged(former, phase, self._since[phase])

    def _move(self, to: Phase, now: float) -> bool:
        if _ORDER.index(to) <= _ORDER.index(self.phase):
            return False
        self._since[to] = now
        self.is_draining |= to is not Phase.READY
        return self.phase is to
