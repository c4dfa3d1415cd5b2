"""The filters, order and cursor of a list of incidents."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..web.body import Time
from ..web.paging import Paged
from .model import Kind, Outcome, Owner, Severity, Slug, Status

__all__ = ["IncidentFilters", "IncidentQuery", "Sort"]


class Sort(StrEnum):
    """The order of a list; ties are broken by id."""

    NEWEST = "-declared_at"
    OLDEST = "declared_at"
    CHANGED = "changed"


T = TypeVar("T")
Many = Annotated[list[T], Field(max_length=20)]  # A repeated parameter means "or".
Word = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class IncidentFilters(BaseModel):
    """Filters of incidents; different ones are joined by "and"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    since: Time | None = Field(
        None, alias="from", description="Incidents that ended at or after it, or are open."
    )
    until: Time | None = Field(None, alias="to", description="Incidents declared before it.")
    kind: Many[Kind] = []
    service: Many[Slug] = []
    team: Many[Slug] = []
    label: Many[Slug] = []
    severity: Many[Severity] = []
    severity_gte: Severity | None = None
    status: Many[Status] = []
    outcome: Many[Outcome] = []
    owner: Many[Owner] = []
    has_postmortem: bool | None = None
    updated_since: Time | None = None
    q: Many[Word] = []


class IncidentQuery(IncidentFilters, Paged):
    """The filters, the order, and the position in it."""

    sort: Sort = Sort.NEWEST
