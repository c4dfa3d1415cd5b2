"""Revisions of post-mortems: their model, status transitions, requests and responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from ..errors import IllegalTransitionError, invalid
from ..incidents.model import Slug
from ..timeline.model import Micros, Precision
from ..web.body import WHOLE, Time
from ..web.paging import Listed
from .content import Category, Content, SectionChange


class Stage(StrEnum):
    """The status of a post-mortem."""

    DRAFT = "draft"
    IN_REVIEW = "in_review"
    PUBLISHED = "published"
    WAIVED = "waived"


Message = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Number = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1), WHOLE]


class Draft(BaseModel, extra="forbid"):
    """The complete new content, and the reason for the change."""

    content: Content
    message: Message | None = None


class Transition(BaseModel, extra="forbid"):
    """A requested status transition."""

    to: Stage
    message: Message | None = Field(None, description="Required for `waived`: why no post-mortem is needed.")


class Restore(BaseModel, extra="forbid"):
    """The older revision to restore."""

    rev: Number


class RevisionQuery(BaseModel, extra="forbid", frozen=True):
    """What to compare a revision with."""

    against: int | None = Field(None, ge=1, le=2**31 - 1, description="The revision to compare with.")


class RevisionSummary(BaseModel, frozen=True):
    """A revision without its content, for lists."""

    rev: int
    status: Stage
    message: str | None
    restored_from: int | None
    author: str
    at: Time


class Revision(RevisionSummary, frozen=True):
    """A revision as it is stored."""

    incident_id: UUID
    schema_version: int
    content: Content
    timeline_digest: str = Field(description="The digest of the timeline at that time.")
    timeline_at: Time = Field(description="Use it as `as_of` to see the timeline of that time.")
    rules: int = Field(description="The version of the timeline rules at that time.")

    @property
    def etag(self) -> str:
        return f'"pm-{self.rev}"'


class RevisionPage(Listed[RevisionSummary]):
    """Revisions, newest first, and the cursor of the next page."""


class Against(BaseModel):
    """A section that differs: `before` is the other revision, `after` this one."""

    rev: int
    sections: Sequence[SectionChange]


class RevisionWithDifferences(Revision, frozen=True):
    """A revision, with its differences from another if requested."""

    against: Against | None


class ChangedEntry(BaseModel):
    """A changed entry: the former one if removed, else the current one."""

    source: str
    id: str
    kind: str
    t: Micros
    p: Precision
    title: str


class TimelineChanges(BaseModel):
    """Changes of the timeline since a revision; all lists are empty if only pins or milestones changed."""

    added: Sequence[ChangedEntry]
    removed: Sequence[ChangedEntry]
    moved: Sequence[ChangedEntry]
    retitled: Sequence[ChangedEntry]


class PostMortem(Revision, frozen=True):
    """The post-mortem: its last revision that the caller may read, and how its timeline has changed since."""

    timeline_changed: bool
    timeline_changes: TimelineChanges | None


class FactorCount(BaseModel):
    """A contributing factor, and the incidents whose published post-mortems name it."""

    slug: Slug
    category: Category
    count: int
    incidents: Sequence[str]


class FactorList(BaseModel):
    """Contributing factors, most frequent first, at most 500."""

    items: Sequence[FactorCount]


MOVES: Mapping[Stage | None, Sequence[Stage]] = {
    None: (Stage.WAIVED,),  # Waiving needs no earlier revision.
    Stage.DRAFT: (Stage.IN_REVIEW, Stage.WAIVED),
    Stage.IN_REVIEW: (Stage.PUBLISHED, Stage.DRAFT, Stage.WAIVED),
    Stage.PUBLISHED: (Stage.DRAFT,),
    Stage.WAIVED: (Stage.DRAFT,),
}
"""The allowed transitions; None is before the first revision. Staying is not a transition."""


def move(stage: Stage | None, wish: Transition) -> bool:
    """Return whether this is a transition; False if the post-mortem already has that status.

    Raises:
        IllegalTransitionError: If there is no such transition.
        InvalidFieldsError: If it is waived without a message.
    """
    if wish.to == stage:
        return False
    if wish.to not in MOVES[stage]:
        detail = f"A post-mortem that is {stage or 'not yet written'} cannot become {wish.to}"
        raise IllegalTransitionError(detail, extra={"allowed": list(MOVES[stage])})
    if wish.to is Stage.WAIVED and wish.message is None:
        raise invalid("/message", "required", "waiving requires a message: why no post-mortem is needed")
    return True


def next_stage(stage: Stage | None) -> Stage:
    """Return the status of new content: a review continues, anything else becomes a draft."""
    return Stage.IN_REVIEW if stage is Stage.IN_REVIEW else Stage.DRAFT


def lacks(content: Content, *, has_owners: bool) -> Sequence[str]:
    """List what content lacks before it can be published; open action items need owners."""
    there = {
        "summary": bool(content.summary.strip()),
        "impact": bool(content.impact.description.strip()),
        "factors": bool(content.factors) or content.factors_none_found,
        "owners": has_owners,
    }
    return [name for name, is_there in there.items() if not is_there]
