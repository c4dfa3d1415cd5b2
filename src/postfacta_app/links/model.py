"""What joins two incidents, what callers send and get."""

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
    """What the one incident is to the other."""

    RELATED = "related"
    DUPLICATE_OF = "duplicate_of"
    FOLLOWS = "follows"


class Direction(StrEnum):
    """Which end says it: this incident of the other, the other of this one, or each of the other."""

    OUT = "out"
    IN = "in"
    BOTH = "both"


Ref = Annotated[str, StringConstraints(min_length=1, max_length=40)]
Note = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class NewLink(BaseModel):
    """What the incident of the path is to another."""

    model_config = ConfigDict(extra="forbid")

    to: Ref = Field(description="The other one: `INC-12` or a UUID.")
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
    """A link as it is seen from one of its incidents."""

    model_config = ConfigDict(frozen=True)

    type: LinkType
    direction: Direction
    incident: Far
    note: str | None
    created_by: str
    created_at: Time


class LinkList(BaseModel):
    """All links of one incident whose other end the asker may see, oldest first."""

    items: Sequence[IncidentLink]
