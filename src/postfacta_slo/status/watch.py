"""Hold the last reading of the objectives, for a page that waits for no Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from postfacta_core.clock import MONOTONIC, WALL, Clock

from .prometheus import Prometheus, PrometheusError
from .query import SloStatus, query_status


class Watch:
    """Holds the `statuses` of a service's objectives at the last reading; None before the first.

    `name` is the Prometheus without credentials, `error` says why the last reading failed. A
    service calls `look` in a thread every few seconds.
    """

    def __init__(
        self,
        service: str,
        current: Callable[[], Prometheus],
        *,
        interval: float = 60.0,
        clock: Clock = MONOTONIC,
        wall: Clock = WALL,
    ) -> None:
        self._service = service
        self._current = current
        self._interval = interval
        self._clock = clock
        self._wall = wall
        self._read_at = 0.0
        self.name: str = current().name
        self.statuses: Sequence[SloStatus] | None = None
        self.error: str = ""

    @property
    def age(self) -> float:
        """The seconds since the last reading."""
        return 0.0 if self.statuses is None else self._clock() - self._read_at

    def look(self) -> None:
        """Read again if the last reading failed or is `interval` seconds old.

        Wait for the Prometheus.
        """
        if self.statuses is not None and not self.error and self.age < self._interval:
            return
        try:
            prometheus = self._current()
            self.name = prometheus.name
            statuses = query_status(prometheus, at=self._wall(), service=self._service)
        except Exception as error:  # noqa: BLE001 - the page shows it, and the next look may succeed
            is_ours = isinstance(error, PrometheusError)
            self.error = str(error) if is_ours else type(error).__name__
        else:
            self.statuses = statuses
            self._read_at = self._clock()
            self.error = ""
