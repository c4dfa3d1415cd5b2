"""How other slices reach a timeline."""

from __future__ import annotations

from uuid import UUID

from ..db import Reader
from ..incidents.access import missing
from ..incidents.model import Incident
from .model import Facts
from .postgres import TimelineStore

__all__ = ["digest_in", "facts_in", "facts_of", "store"]

digest_in = TimelineStore.digest_in
facts_in = TimelineStore.facts_in


def store(q: Reader) -> TimelineStore:
    """Return what reads timelines."""
    return TimelineStore(q.database)


async def facts_of(q: Reader, ref: UUID | int) -> tuple[Incident, Facts]:
    """Read an incident and all its facts, from one snapshot.

    Raises:
        NotFoundError: If the caller may not see it.
    """
    found = await store(q).facts(q.principal, ref)
    if found is None:
        raise missing()
    return found
