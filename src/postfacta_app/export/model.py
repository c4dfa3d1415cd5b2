"""An incident as it is taken out: one document, the same for JSON, Markdown and a line of NDJSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..actions.model import Action
from ..aside import LARGE
from ..incidents.model import Incident
from ..incidents.query import IncidentFilters
from ..links.model import IncidentLink
from ..postmortems.model import PostMortem
from ..timeline.annotations import AnnotationKind, AnnotationState
from ..timeline.edits import EntryRef
from ..timeline.model import Entry, Instant, Milestone
from ..web.body import Time

__all__ = ["Document", "ExportFormat", "ExportQuery", "OneQuery", "Remark", "TimelineDocument"]


class ExportFormat(StrEnum):
    """How one incident is written down."""

    JSON = "json"
    MD = "md"


class OneQuery(BaseModel):
    """How to take out one incident."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: ExportFormat = ExportFormat.JSON
    rev: int | None = Field(
        None, ge=1, le=2**31 - 1, description="The post-mortem's revision; by default the last."
    )


class ExportQuery(IncidentFilters):
    """Which incidents to take out, and where to go on."""

    limit: int = Field(20, ge=1, le=100, description="The most lines. Fewer come if they are long.")
    cursor: Annotated[str, StringConstraints(max_length=1000)] | None = None


class TimelineDocument(BaseModel):
    """The timeline without its hidden entries, and the digest that tells whether it is the same."""

    digest: str
    rules: int
    milestones: Mapping[Milestone, Instant]
    entries: Sequence[Entry]


class Remark(BaseModel):
    """What somebody said, as it stands now: on an entry, at a time of its own, or on the whole."""

    id: UUID
    kind: AnnotationKind
    state: AnnotationState | None
    body: str
    entry: EntryRef | None
    occurred_at: Time | None
    author: str
    at: Time


class Document(BaseModel):
    """All that the asker may see of an incident. Equal states give equal bytes: nothing tells when it was taken."""

    format: Literal["postfacta-incident/1"] = "postfacta-incident/1"
    incident: Incident
    timeline: TimelineDocument
    annotations: Sequence[Remark]
    postmortem: PostMortem | None = Field(
        description="Null if there is none, or none that the asker may read."
    )
    actions: Sequence[Action]
    links: Sequence[IncidentLink] = Field(description="Those whose other end the asker may see.")

    @property
    def size(self) -> int:
        """About how many bytes it has as JSON."""
        rows = len(self.timeline.entries) + len(self.annotations) + len(self.actions) + len(self.links)
        return 500 * rows + (LARGE if self.postmortem else 0)
