"""How busy this machine is, as far as our own process notices."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["Waited"]

_SCHEDSTAT = Path("/proc/self/schedstat")


class Waited:
    """The share of time that this process wanted to run and could not, since it was made."""

    def __init__(self) -> None:
        self._began = _times()

    @property
    def share(self) -> float:
        """From 0 to 1; 0 where it cannot be known."""
        (ran, waited), (ran0, waited0) = _times(), self._began
        wanted = (ran - ran0) + (waited - waited0)
        return (waited - waited0) / wanted if wanted else 0.0

    def state(self) -> dict[str, float]:
        """Return the state of the machine for the report."""
        return {
            "waited": round(self.share, 3),
            "load": round(os.getloadavg()[0], 2),
            "processors": float(os.cpu_count() or 1),
        }


def _times() -> tuple[int, int]:
    try:
        ran, waited, *_ = _SCHEDSTAT.read_text().split()
    except OSError:
        return 0, 0
    return int(ran), int(waited)
