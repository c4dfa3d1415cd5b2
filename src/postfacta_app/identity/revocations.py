"""Apply the revocations of other processes to what this process trusts and caches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from postfacta_core.clock import MONOTONIC, Clock

from .postgres import PostgresIdentity

# A lower number may commit after a higher one, but no transaction lives this long.
_SETTLED: Final = 30.0
_UNSETTLED_AT_START: Final = 1000


class Revocations:
    """Reads the audit log: calls `distrust` once a right was lost, `hide` once an incident is seen by fewer."""

    def __init__(
        self,
        store: PostgresIdentity,
        *,
        distrust: Callable[[], object],
        hide: Callable[[], object],
        clock: Clock = MONOTONIC,
    ) -> None:
        self._store = store
        self._distrust = distrust
        self._hide = hide
        self._clock = clock
        self._after: int | None = None
        self._known = set[int]()
        self._newest: deque[tuple[float, int]] = deque()

    async def look(self) -> None:
        """Process new entries of the audit log; the first call only records where it ends."""
        now = self._clock()
        if self._after is None:
            newest, _ = await self._store.losses(1 << 62)
            self._after = newest - _UNSETTLED_AT_START
            self._known = {seq for seq, _ in (await self._store.losses(self._after))[1]}
            return
        newest, found = await self._store.losses(self._after)
        kinds = {hides for seq, hides in found if seq not in self._known}
        if True in kinds:
            self._hide()
        if False in kinds:
            self._distrust()
        self._known = {seq for seq, _ in found}
        self._newest.append((now, newest))
        while self._newest[0][0] <= now - _SETTLED:
            self._after = self._newest.popleft()[1]
