"""How busy this machine is, for this process and for what it started."""

from __future__ import annotations

import os
from pathlib import Path

from .processes import descendants, fields_of

__all__ = ["Waited"]

_SCHEDSTAT, _STAT = Path("/proc/self/schedstat"), Path("/proc/stat")


class Waited:
    """The share of time that this process wanted to run and could not, since it was made."""

    def __init__(self) -> None:
        self._began, self._ticks = _times(), _ticks()

    @property
    def share(self) -> float:
        """From 0 to 1; 0 where it cannot be known."""
        (ran, waited), (ran0, waited0) = _times(), self._began
        wanted = (ran - ran0) + (waited - waited0)
        return (waited - waited0) / wanted if wanted else 0.0

    @property
    def others(self) -> float:
        """The share of the machine that neither this process had nor what it started, from 0 to 1; 0 if not known."""
        total, idle, ours = (now - before for now, before in zip(_ticks(), self._ticks, strict=True))
        return max(0, total - idle - max(ours, 0)) / total if total > 0 else 0.0

    def state(self) -> dict[str, float]:
        """Return the state of the machine for the report."""
        return {
            "waited": round(self.share, 3),
            "others": round(self.others, 3),
            "load": round(os.getloadavg()[0], 2),
            "processors": float(os.cpu_count() or 1),
        }


def _ticks() -> tuple[int, int, int]:
    """Return what all processors did since they were started, of that nothing, and for us and those below us."""
    try:
        every = [int(word) for word in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return 0, 0, 0
    own = os.getpid()
    stats = [fields_of(pid) for pid in (own, *descendants(own))]
    return sum(every), every[3] + every[4], sum(int(word) for stat in stats for word in stat[11:15])


def _times() -> tuple[int, int]:
    try:
        ran, waited, *_ = _SCHEDSTAT.read_text().split()
    except OSError:
        return 0, 0
    return int(ran), int(waited)
