"""The content of a post-mortem, schema version 1: sections, limits, differences."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final

from pydantic import BaseModel, Field, JsonValue, StringConstraints, field_validator, model_validator

from ..incidents.model import Slug
from ..timeline.edits import EntryRef
from ..web.body import WHOLE

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


class SectionChange(BaseModel):
    """A section that differs, with both versions."""

    section: str
    before: JsonValue
    after: JsonValue


def differences(before: Content, after: Content) -> Sequence[SectionChange]:
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    return [
        SectionChange(section=name, before=old[name], after=new[name])
        for name in new
        if old[name] != new[name]
    ]
