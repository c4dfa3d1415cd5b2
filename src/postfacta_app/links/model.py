"""Links between incidents: their model, requests and responses."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..incidents.model import Severity, Status, Visibility
from ..web.body import Time

__all__ = ["Direction", "Far", "IncidentLink", "LinkList", "LinkType", "NewLink"]


class LinkType(StrEnum):
    """The relation of one incident to another."""

    RELATED = "related"
    DUPLICATE_OF = "duplicate_of"
    FOLLOWS = "follows"


class Direction(StrEnum):
    """The direction of a link: from this incident, to it, or both."""

    OUT = "out"
    IN = "in"
    BOTH = "both"


Ref = Annotated[str, StringConstraints(min_length=1, max_length=40)]
Note = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class NewLink(BaseModel):
    """The relation of the incident in the path to another."""

    model_config = ConfigDict(extra="forbid")

    to: Ref = Field(description="The other incident: `INC-12` or a UUID.")
    type: LinkType
    note: Note | None = None


class Far(BaseModel):
    """The incident at the other end."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    number: int
    title: str
    severity: Severity
    status: Status
    visibility: Visibility


class IncidentLink(BaseModel):
    """A link, seen from one of its incidents."""

    model_config = ConfigDict(frozen=True)

    type: LinkType
    direction: Direction
    incident: Far
    note: str | None
    created_by: str
    created_at: Time


class LinkList(BaseModel):
    """All links of one incident whose other end the caller may see, oldest first."""

    items: Sequence[IncidentLink]
