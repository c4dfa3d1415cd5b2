"""Annotations on an incident or its entries: their model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from ..signals.model import Precision
from ..web.body import Time
from ..web.paging import Listed
from .edits import EntryRef


class AnnotationKind(StrEnum):
    """The kind of an annotation."""

    NOTE = "note"
    DECISION = "decision"
    HYPOTHESIS = "hypothesis"
    QUESTION = "question"


class AnnotationState(StrEnum):
    """The state of a hypothesis or a question."""

    OPEN = "open"
    SUPPORTED = "supported"
    REFUTED = "refuted"
    ANSWERED = "answered"


STATES: Final = {
    AnnotationKind.HYPOTHESIS: (AnnotationState.OPEN, AnnotationState.SUPPORTED, AnnotationState.REFUTED),
    AnnotationKind.QUESTION: (AnnotationState.OPEN, AnnotationState.ANSWERED),
}
"""The states of each kind; other kinds have none."""
Body = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]


class NewAnnotation(BaseModel, extra="forbid"):
    """A new annotation on the incident, or on one entry of its timeline."""

    kind: AnnotationKind
    body: Body
    state: AnnotationState | None = Field(
        None, description="The state of a hypothesis or a question; default `open`."
    )
    entry: EntryRef | None = Field(
        None, description="The entry it is about; such an annotation has no time of its own."
    )
    occurred_at: Time | None = Field(None, description="When it happened; makes it an entry of the timeline.")
    precision: Precision | None = Field(None, description="How exactly that time is known; default `exact`.")


class AnnotationChange(BaseModel, extra="forbid"):
    """A new text, a new state, or both; absent fields stay."""

    body: Body = Field(default_factory=str)  # As in incidents.model.Change: never read.
    state: AnnotationState = Field(default_factory=lambda: AnnotationState.OPEN)


class ShownAnnotation(BaseModel, frozen=True):
    """The current version of an annotation; `id` is that of its first version."""

    id: UUID
    kind: AnnotationKind
    state: AnnotationState | None
    body: str
    entry: EntryRef | None
    occurred_at: Time | None
    precision: Precision | None
    author: str = Field(description="The author of the first version.")
    at: Time = Field(description="The time of the first version.")
    changed_at: Time | None
    version: int

    @property
    def etag(self) -> str:
        """Its version, which a change must name."""
        return f'"ann-{self.version}"'


class AnnotationPage(Listed[ShownAnnotation]):
    """A page of an incident's annotations, without retracted ones, oldest first."""
