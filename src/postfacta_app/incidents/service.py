"""Incidents for the slices that are still classes over stores: timelines and signals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from uuid import UUID

from starlette.requests import Request

from ..db import Unit
from ..web.stale import allow_stale
from .access import Shown, is_shared, lock_active as lock_now, missing, read_ref
from .model import Incident
from .postgres import PostgresIncidents as Store

__all__ = ["Matches", "Store", "allow_stale_incidents", "lock_active", "missing", "parse_ref", "read_ref"]

Matches = Callable[[str], None]
"""Raises if the caller did not start from the version with this ETag."""


async def lock_active(unit: Unit, _: Store, ref: UUID | int) -> Incident:
    """Read one; it and everything below it stay locked until the unit ends."""
    return await lock_now(unit, ref)


def parse_ref(request: Request, name: str = "ref") -> UUID | int:
    """Return the incident that this part of the path names."""
    ref = read_ref(request.path_params[name])
    if ref is None:
        raise missing()
    return ref


def allow_stale_incidents(request: Request, shown: Iterable[Shown]) -> None:
    """Allow the response to be kept for outages unless one of these is private."""
    if is_shared(shown):
        allow_stale(request)
