"""Judge from the application's journal whether its workers closed in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .servers import Event

__all__ = ["Closing"]


@dataclass(frozen=True, slots=True)
class Closing:
    """How the workers of an instance ended.

    Attributes:
        started: Workers whose startup ended.
        shut_down: Of them, those whose lifespan shutdown ran to its end.
        late: Handlers that ended after their worker's shutdown began, or never.
        resources_open: Resources that were opened.
        resources_closed: Of them, those that were closed, and after the application's shutdown.
    """

    started: int
    shut_down: int
    late: int
    resources_open: int
    resources_closed: int

    @classmethod
    def of(cls, journal: Sequence[Event]) -> Closing:
        """Read it from the journal."""
        pids = {event.pid for event in journal}
        workers = [[event for event in journal if event.pid == pid] for pid in sorted(pids)]
        names = [{event.name for event in events} for events in workers]
        return cls(
            started=sum("startup" in seen for seen in names),
            shut_down=sum("shutdown-end" in seen for seen in names),
            late=sum(_late(events) for events in workers),
            resources_open=sum("resource-open" in seen for seen in names),
            resources_closed=sum(_closed_last(events) for events in workers),
        )

    def misses(self) -> list[str]:
        """Return what was not in order."""
        found: list[str] = []
        if self.shut_down < self.started:
            found.append(f"lifespan shutdown ran in {self.shut_down} of {self.started} workers")
        if self.late:
            found.append(f"{self.late} handlers had not ended when their lifespan shutdown began")
        if self.resources_closed < self.resources_open:
            found.append(
                f"{self.resources_closed} of {self.resources_open} resources were closed last"
            )
        return found

    def __str__(self) -> str:
        """Return the text of a table cell."""
        late = f", {self.late} handlers late" if self.late else ""
        return f"{self.shut_down}/{self.started}{late}"


def _late(events: Sequence[Event]) -> int:
    begins = sum(event.name == "handler-begin" for event in events)
    shutdown = min(
        (event.at for event in events if event.name == "shutdown-begin"), default=float("inf")
    )
    in_time = sum(event.name == "handler-end" and event.at <= shutdown for event in events)
    return begins - in_time


def _closed_last(events: Sequence[Event]) -> bool:
    lived = any(event.name == "startup" for event in events)
    # Of an application that never started there is no end to wait for.
    shutdown = max(
        (e.at for e in events if e.name == "shutdown-end"), default=float("inf") if lived else 0
    )
    return any(event.name == "resource-close" and event.at >= shutdown for event in events)
