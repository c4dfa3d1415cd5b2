"""The export document of an incident, for JSON, Markdown and NDJSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from ..actions import Action
from ..incidents.model import Incident, IncidentFilters
from ..labels import Label
from ..links import IncidentLink
from ..postmortems.model import PostMortem
from ..timeline.model import AnnotationKind, AnnotationState, Entry, EntryRef, Instant, Milestone
from ..web.body import Time


class ExportFormat(StrEnum):
    """The format of a single export."""

    JSON = "json"
    MD = "md"


class OneQuery(BaseModel, extra="forbid", frozen=True):
    """The parameters of a single export."""

    format: ExportFormat = ExportFormat.JSON
    rev: int | None = Field(
        None, ge=1, le=2**31 - 1, description="The post-mortem's revision; by default the last."
    )


class ExportQuery(IncidentFilters, frozen=True):
    """Which incidents to export, and where to continue."""

    limit: int = Field(20, ge=1, le=100, description="The most lines; fewer if they are long.")
    cursor: Annotated[str, StringConstraints(max_length=1000)] | None = None


class TimelineDocument(BaseModel):
    """The timeline without hidden entries, and its digest."""

    digest: str
    rules: int
    milestones: Mapping[Milestone, Instant]
    entries: Sequence[Entry]


class Remark(BaseModel):
    """The current version of an annotation: on an entry, at a time of its own, or on the incident."""

    id: UUID
    kind: AnnotationKind
    state: AnnotationState | None
    body: str
    entry: EntryRef | None
    occurred_at: Time | None
    author: str
    at: Time


class Document(BaseModel):
    """What the caller may see of an incident. Equal states give equal bytes: there is no time of export."""

    format: Literal["postfacta-incident/1"] = "postfacta-incident/1"
    incident: Incident
    labels: Sequence[Label]
    timeline: TimelineDocument
    annotations: Sequence[Remark]
    postmortem: PostMortem | None = Field(
        description="Null if there is none, or none that the caller may read."
    )
    actions: Sequence[Action]
    links: Sequence[IncidentLink] = Field(description="Those whose other end the caller may see.")
