"""What a run of the harness agrees on beforehand.

The application, its limits, the time for each part.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from .servers import Server, ServerKind

__all__ = ["EVENT_SOURCE", "EXIT_MARGIN", "Plan", "Times"]

# What the start of an interpreter's end, and of its parent's, may take beside the budget.
EXIT_MARGIN = 0.5
# What a browser's EventSource sends (HTML, section 9.2.2).
EVENT_SOURCE = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Lengths in seconds.

    Attributes:
        drain_delay: The drain delay.
        drain_timeout: For requests in flight after it.
        close_timeout: For resources after them.
        notice: How long a load balancer still sends after readiness failed.
        in_flight: How long a long request takes; more than the drain delay, so that it outlives it.
        warm: Load before the signal.
        short_answer: How long an answer in pieces takes.
        long_answer: How long another one does; more than the drain delay, and less than both limits
            together.
        slack: Added to the goals in time, for a busy machine.
    """

    drain_delay: float = 2.0
    drain_timeout: float = 5.0
    close_timeout: float = 2.0
    notice: float = 1.5
    in_flight: float = 3.0
    warm: float = 1.0
    short_answer: float = 8.0
    long_answer: float = 15.0
    slack: float = 0.0

    @property
    def budget(self) -> float:
        """From the signal to the exit, at most."""
        return self.drain_delay + self.drain_timeout + self.close_timeout + EXIT_MARGIN + self.slack


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run, and how.

    Attributes:
        app: Import string of the application.
        folder: For journals and logs.
        plain: Leave the library out.
        times: Of the application and of the load.
    """

    app: str
    folder: Path
    plain: bool = False
    times: Times = field(default_factory=Times)

    def server(
        self, kind: ServerKind, times: Times, *, label: str, port: int | None = None, **more: str
    ) -> Server:
        """Make an instance with these limits."""
        environment = {
            "DRAIN_DELAY": str(times.drain_delay),
            "DRAIN_TIMEOUT": str(times.drain_timeout),
            "DRAIN_CLOSE": str(times.close_timeout),
            **more,
        }
        if self.plain:
            environment["DRAIN_PLAIN"] = "1"
        folder = self.folder / kind.name / label
        return Server(kind, app=self.app, folder=folder, environment=environment, port=port)

    def limits(self, drain_delay: float, drain_timeout: float, close_timeout: float) -> Times:
        """Use other limits with the same slack."""
        return replace(
            self.times,
            drain_delay=drain_delay,
            drain_timeout=drain_timeout,
            close_timeout=close_timeout,
        )
