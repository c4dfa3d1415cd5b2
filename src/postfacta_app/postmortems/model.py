"""What a revision is, which moves a post-mortem can make, what callers send and get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..errors import FieldError, IllegalTransitionError, InvalidFieldsError
from ..incidents.model import Slug
from ..timeline.model import Entry, Facts, Micros, Precision, micros
from ..timeline.rules import Changes, Timeline, build, changes
from ..web.body import WHOLE, Time
from .content import Category, Content, SectionChange

__all__ = [
    "Against",
    "ChangedEntry",
    "Draft",
    "FactorCount",
    "FactorList",
    "PostMortem",
    "Restore",
    "Revision",
    "RevisionPage",
    "RevisionQuery",
    "RevisionSummary",
    "RevisionWithDifferences",
    "RevisionsQuery",
    "Stage",
    "TimelineChanges",
    "Transition",
    "lacks",
    "move",
    "next_stage",
]


class Stage(StrEnum):
    """Where a post-mortem stands."""

    DRAFT = "draft"
    IN_REVIEW = "in_review"
    PUBLISHED = "published"
    WAIVED = "waived"


Message = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Number = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1), WHOLE]


class Draft(BaseModel):
    """The whole new content, and why it changes."""

    model_config = ConfigDict(extra="forbid")

    content: Content
    message: Message | None = None


class Transition(BaseModel):
    """A wish to bring it to another state."""

    model_config = ConfigDict(extra="forbid")

    to: Stage
    message: Message | None = Field(None, description="`waived` needs one: why there will be no post-mortem.")


class Restore(BaseModel):
    """A wish for the content of an older revision."""

    model_config = ConfigDict(extra="forbid")

    rev: Number


class RevisionsQuery(BaseModel):
    """Which page of the revisions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(50, ge=1, le=200)
    cursor: Annotated[str, StringConstraints(max_length=1000)] | None = None


class RevisionQuery(BaseModel):
    """What to show a revision beside."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    against: int | None = Field(None, ge=1, le=2**31 - 1, description="Another revision: list what differs.")


class RevisionSummary(BaseModel):
    """What is told of a revision in a list."""

    model_config = ConfigDict(frozen=True)

    rev: int
    status: Stage
    message: str | None
    restored_from: int | None
    author: str
    at: Time


class Revision(RevisionSummary):
    """A revision as it is stored."""

    incident_id: UUID
    schema_version: int
    content: Content
    timeline_digest: str = Field(description="The digest of the timeline as it was then.")
    timeline_at: Time = Field(description="Ask for the timeline `as_of` this to see it as it was then.")
    rules: int = Field(description="The version of the timeline's rules then.")

    @property
    def etag(self) -> str:
        """The number of the revision: a change must name it."""
        return f'"pm-{self.rev}"'


class RevisionPage(BaseModel):
    """Revisions, newest first, and where the next page begins."""

    items: Sequence[RevisionSummary]
    next_cursor: str | None


class Against(BaseModel):
    """What another revision says differently: `before` is there, `after` is here."""

    rev: int
    sections: Sequence[SectionChange]


class RevisionWithDifferences(Revision):
    """A revision, beside another one if that was asked for."""

    against: Against | None


class ChangedEntry(BaseModel):
    """An entry that the revision did not know so: a removed one as it was, any other as it is."""

    model_config = ConfigDict(from_attributes=True)

    source: str
    id: str
    kind: str
    t: Micros
    p: Precision
    title: str


class TimelineChanges(BaseModel):
    """What has happened to the timeline since a revision was written; all empty if only pins or milestones moved."""

    added: Sequence[ChangedEntry]
    removed: Sequence[ChangedEntry]
    moved: Sequence[ChangedEntry]
    retitled: Sequence[ChangedEntry]

    @classmethod
    def of(cls, changes: Changes) -> TimelineChanges:
        """Tell of each entry what is needed to find it."""

        def shown(entries: Sequence[Entry]) -> list[ChangedEntry]:
            return [ChangedEntry.model_validate(entry) for entry in entries]

        return cls(
            added=shown(changes.added),
            removed=shown(changes.removed),
            moved=shown(changes.moved),
            retitled=shown(changes.retitled),
        )


class PostMortem(Revision):
    """The post-mortem: its last revision that the asker may read, and what its timeline has done since."""

    timeline_changed: bool
    timeline_changes: TimelineChanges | None

    @classmethod
    def of(cls, revision: Revision, facts: Facts, now: Timeline | None = None) -> PostMortem:
        """Compare the timeline as of the revision with the one of now, both by the rules of now.

        Args:
            revision: The last one.
            facts: Of its incident.
            now: Their timeline, if it is built already.
        """
        at, told = micros(revision.timeline_at), None
        if any(it.at > at for family in (facts.edits, facts.changes, facts.annotations) for it in family):
            before, after = build(facts, as_of=at), now or build(facts)
            if before.digest != after.digest:
                told = TimelineChanges.of(changes(before, after))
        return cls(**dict(revision), timeline_changed=told is not None, timeline_changes=told)


class FactorCount(BaseModel):
    """A factor, and the incidents whose published post-mortems name it."""

    slug: Slug
    category: Category
    count: int
    incidents: Sequence[str]


class FactorList(BaseModel):
    """Factors, those of most incidents first, at most 500."""

    items: Sequence[FactorCount]


MOVES: Mapping[Stage | None, Sequence[Stage]] = {
    None: (Stage.WAIVED,),  # Nobody need write one to say that there will be none.
    Stage.DRAFT: (Stage.IN_REVIEW, Stage.WAIVED),
    Stage.IN_REVIEW: (Stage.PUBLISHED, Stage.WAIVED),
    Stage.PUBLISHED: (Stage.DRAFT,),
    Stage.WAIVED: (Stage.DRAFT,),
}
"""What may follow a state; None is before the first revision. To stay where one is is no move."""


def move(stage: Stage | None, wish: Transition) -> bool:
    """Tell whether this is a move, and not where it is already.

    Raises:
        IllegalTransitionError: If no such move leads away from where it is.
        InvalidFieldsError: If it is waived without a word.
    """
    if wish.to == stage:
        return False
    if wish.to not in MOVES[stage]:
        detail = f"A post-mortem that is {stage or 'not yet written'} cannot become {wish.to}"
        raise IllegalTransitionError(detail, extra={"allowed": list(MOVES[stage])})
    if wish.to is Stage.WAIVED and wish.message is None:
        message = "say why there will be no post-mortem"
        raise InvalidFieldsError(message, errors=[FieldError("/message", "required", message)])
    return True


def next_stage(stage: Stage | None) -> Stage:
    """Tell where new content stands: a review goes on, and all else begins again as a draft."""
    return Stage.IN_REVIEW if stage is Stage.IN_REVIEW else Stage.DRAFT


def lacks(content: Content, *, has_owners: bool) -> Sequence[str]:
    """List what is missing before it can be published.

    Args:
        content: What would be published.
        has_owners: Whether each open action of the incident has an owner.
    """
    there = {
        "summary": bool(content.summary.strip()),
        "impact": bool(content.impact.description.strip()),
        "factors": bool(content.factors) or content.factors_none_found,
        "owners": has_owners,
    }
    return [name for name, is_there in there.items() if not is_there]
