"""Post-mortems: their content in schema version 1, their statuses, requests and responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

from pydantic import BaseModel, Field, Json, StringConstraints, field_validator, model_validator

from ..errors import IllegalTransitionError, invalid
from ..incidents.model import Slug
from ..signals.model import Precision
from ..timeline.model import EntryRef, Micros
from ..web.body import WHOLE, Listed, Time

SCHEMA_VERSION: Final = 1

Text = Annotated[str, StringConstraints(max_length=20_000)]  # Markdown; HTML is shown as text.
Statement = Annotated[str, StringConstraints(min_length=1, max_length=20_000)]
Items = Annotated[list[Statement], Field(max_length=50)]


class TriggerKind(StrEnum):
    """The kind of trigger."""

    CHANGE = "change"
    CONFIG = "config"
    LOAD = "load"
    DEPENDENCY = "dependency"
    EXPIRY = "expiry"
    UNKNOWN = "unknown"


class Category(StrEnum):
    """The category of a contributing factor."""

    CHANGE = "change"
    CAPACITY = "capacity"
    DEPENDENCY = "dependency"
    DETECTION = "detection"
    RESPONSE = "response"
    DESIGN = "design"
    PROCESS = "process"
    KNOWLEDGE = "knowledge"
    EXTERNAL = "external"


class Quantity(BaseModel, extra="forbid", frozen=True):
    """A measure of the impact."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    value: Annotated[float, Field(strict=True, ge=-1e300, le=1e300, allow_inf_nan=False)]
    unit: Annotated[str, StringConstraints(max_length=50)] = ""


class Impact(BaseModel, extra="forbid", frozen=True):
    """Who was affected, and how much."""

    description: Text = ""
    users_affected: Annotated[int, Field(strict=True, ge=0, le=10**12), WHOLE] | None = Field(
        default=None, description="Null means unknown, which is not 0."
    )
    quantities: Annotated[list[Quantity], Field(max_length=50)] = []


class Detection(BaseModel, extra="forbid", frozen=True):
    """How the incident was detected."""

    how: Text = ""
    could_be_sooner: Text = ""


class Trigger(BaseModel, extra="forbid", frozen=True):
    """What triggered the incident; the factors explain why that was enough."""

    kind: TriggerKind = TriggerKind.UNKNOWN
    description: Text = ""
    entry: EntryRef | None = None


class Factor(BaseModel, extra="forbid", frozen=True):
    """A condition without which the incident would not have happened, or been less severe."""

    slug: Slug = Field(description="The same in every post-mortem where it recurs.")
    category: Category
    statement: Statement
    safeguard: Text | None = Field(None, description="The safeguard that failed.")
    why_it_made_sense: Text | None = Field(None, description="Why it made sense at the time.")
    evidence: Annotated[list[EntryRef], Field(max_length=50)] = []


class Content(BaseModel, extra="forbid", frozen=True):
    """The sections of a post-mortem in reading order. There is no single root cause."""

    summary: Text = ""
    impact: Impact = Impact()
    detection: Detection = Detection()
    trigger: Trigger = Trigger()
    response: Text = ""
    factors: Annotated[list[Factor], Field(max_length=50)] = []
    factors_none_found: Annotated[bool, Field(strict=True)] = False
    went_well: Items = []
    went_poorly: Items = []
    got_lucky: Items = []
    surprises: Items = []
    open_questions: Items = []

    @field_validator("factors")
    @classmethod
    def _unique(cls, factors: list[Factor]) -> list[Factor]:
        if len({factor.slug for factor in factors}) < len(factors):
            raise ValueError("must have unique slugs")
        return factors

    @model_validator(mode="after")
    def _found_or_not(self) -> Content:
        if self.factors and self.factors_none_found:
            raise ValueError("must not be set together with factors")
        return self


class Stage(StrEnum):
    """The status of a post-mortem."""

    DRAFT = "draft"
    IN_REVIEW = "in_review"
    PUBLISHED = "published"
    WAIVED = "waived"


Message = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class Draft(BaseModel, extra="forbid"):
    """The complete new content, and the reason for the change."""

    content: Content
    message: Message | None = None


class Transition(BaseModel, extra="forbid"):
    """A requested status transition."""

    to: Stage
    message: Message | None = Field(
        None, description="Required for `waived`: why no post-mortem is needed."
    )


class Restore(BaseModel, extra="forbid"):
    """The older revision to restore."""

    rev: Annotated[int, Field(strict=True, ge=1, le=2**31 - 1), WHOLE]


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
    content: Content | Json[Content]  # of the database, as text
    timeline_digest: str = Field(description="The digest of the timeline at that time.")
    timeline_at: Time = Field(description="Use it as `as_of` to see the timeline of that time.")
    rules: int = Field(description="The version of the timeline rules at that time.")

    @property
    def etag(self) -> str:
        return f'"pm-{self.rev}"'


class RevisionPage(Listed[RevisionSummary]):
    """Revisions, newest first, and the cursor of the next page."""


class ChangedEntry(BaseModel):
    """A changed entry: the former one if removed, else the current one."""

    source: str
    id: str
    kind: str
    t: Micros
    p: Precision
    title: str


class TimelineChanges(BaseModel):
    """Changes of the timeline since a revision.

    All lists are empty if only pins or milestones changed.
    """

    added: Sequence[ChangedEntry]
    removed: Sequence[ChangedEntry]
    moved: Sequence[ChangedEntry]
    retitled: Sequence[ChangedEntry]


class PostMortem(Revision, frozen=True):
    """The post-mortem: the last revision for the caller, and how its timeline has changed since."""

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


def move(stage: Stage | None, change: Transition) -> bool:
    """Return whether this is a transition, not the present status.

    Raise if it may not be, or unexplained.
    """
    if change.to == stage:
        return False
    if change.to not in MOVES[stage]:
        detail = f"A post-mortem that is {stage or 'not yet written'} cannot become {change.to}"
        raise IllegalTransitionError(detail, extra={"allowed": list(MOVES[stage])})
    if change.to is Stage.WAIVED and change.message is None:
        raise invalid(
            "/message", "required", "waiving requires a message: why no post-mortem is needed"
        )
    return True


def next_stage(stage: Stage | None) -> Stage:
    """Return the status of new content: a review continues, anything else becomes a draft."""
    return Stage.IN_REVIEW if stage is Stage.IN_REVIEW else Stage.DRAFT


def references(content: Content) -> Sequence[EntryRef]:
    """Return the timeline entries that it refers to: evidence, and what triggered the incident."""
    refs = [ref for factor in content.factors for ref in factor.evidence]
    return [*refs, content.trigger.entry] if content.trigger.entry else refs


def lacks(content: Content, *, has_owners: bool, has_evidence: bool) -> Sequence[str]:
    """List what content lacks before it can be published.

    Open action items need owners, and evidence must be on the timeline.
    """
    sections = {
        "summary": bool(content.summary.strip()),
        "impact": bool(content.impact.description.strip()),
        "factors": bool(content.factors) or content.factors_none_found,
        "owners": has_owners,
        "evidence": has_evidence,
    }
    return [name for name, is_present in sections.items() if not is_present]
