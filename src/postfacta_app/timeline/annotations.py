"""Annotations on an incident or its entries: their model, rules and use cases."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Protocol
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ..db import Unit
from ..errors import FieldError, ForbiddenError, InvalidFieldsError, NotFoundError
from ..incidents import service
from ..incidents.model import Incident, check_time
from ..principal import Access, Principal
from ..web.body import Time
from .edits import EntryRef

__all__ = [
    "STATES",
    "AnnotationChange",
    "AnnotationKind",
    "AnnotationPage",
    "AnnotationState",
    "NewAnnotation",
    "ShownAnnotation",
    "Store",
    "add",
    "change",
    "missing",
    "retract",
]


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


class NewAnnotation(BaseModel):
    """A new annotation on the incident, or on one entry of its timeline."""

    model_config = ConfigDict(extra="forbid")

    kind: AnnotationKind
    body: Body
    state: AnnotationState | None = Field(
        None, description="The state of a hypothesis or a question; default `open`."
    )
    entry: EntryRef | None = Field(
        None, description="The entry it is about; such an annotation has no time of its own."
    )
    occurred_at: Time | None = Field(None, description="When it happened; makes it an entry of the timeline.")


class AnnotationChange(BaseModel):
    """A new text, a new state, or both; absent fields stay."""

    model_config = ConfigDict(extra="forbid")

    body: Body = Field(default_factory=str)  # As in incidents.model.Change: never read.
    state: AnnotationState = Field(default_factory=lambda: AnnotationState.OPEN)


class ShownAnnotation(BaseModel):
    """The current version of an annotation; `id` is that of its first version."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    kind: AnnotationKind
    state: AnnotationState | None
    body: str
    entry: EntryRef | None
    occurred_at: Time | None
    author: str = Field(description="The author of the first version.")
    at: Time = Field(description="The time of the first version.")
    changed_at: Time | None
    version: int

    @property
    def etag(self) -> str:
        """Its version, which a change must name."""
        return f'"ann-{self.version}"'


class AnnotationPage(BaseModel):
    """A page of an incident's annotations, without retracted ones, oldest first."""

    items: Sequence[ShownAnnotation]
    next_cursor: str | None


class Store(Protocol):
    """Stores annotations."""

    async def incident_of(self, unit: Unit, root: UUID) -> UUID | None:
        """Return the incident that it belongs to."""
        ...

    async def annotation(self, unit: Unit, root: UUID) -> ShownAnnotation | None:
        """Read its current version; None if it was retracted."""
        ...

    async def add_annotation(self, unit: Unit, incident_id: UUID, new: NewAnnotation) -> UUID:
        """Write a new one at the next instant of the timeline; return its id."""
        ...

    async def supersede(
        self, unit: Unit, incident_id: UUID, new: ShownAnnotation, *, retracted: bool
    ) -> None:
        """Write another version at the next instant of the timeline."""
        ...


async def add(
    unit: Unit, incidents: service.Store, store: Store, *, ref: UUID | int, new: NewAnnotation, now: datetime
) -> ShownAnnotation:
    """Create an annotation."""
    if new.occurred_at is not None:
        check_time("/occurred_at", new.occurred_at, now)
        if new.entry is not None:
            raise _refusal("/occurred_at", "forbidden", "an annotation on an entry has no time of its own")
    if new.state is None and new.kind in STATES:
        new = new.model_copy(update={"state": AnnotationState.OPEN})
    _check_state(new.kind, new.state)
    incident = await service.lock_active(unit, incidents, ref)
    _check_decision(unit.principal, new.kind)
    root = await store.add_annotation(unit, incident.id, new)
    await _audit(unit, "annotation.add", incident, root=root)
    return await _standing(unit, store, root)


async def change(
    unit: Unit,
    incidents: service.Store,
    store: Store,
    *,
    root: UUID,
    wish: AnnotationChange,
    matches: service.Matches,
) -> ShownAnnotation:
    """Change its text or state; write nothing if nothing changes."""
    incident, old = await _locked(unit, incidents, store, root=root)
    matches(old.etag)
    new = old.model_copy(update={name: getattr(wish, name) for name in wish.model_fields_set})
    _check_state(new.kind, new.state)
    if new == old:
        return old
    await store.supersede(unit, incident.id, new, retracted=False)
    await _audit(unit, "annotation.change", incident, root=root)
    return await _standing(unit, store, root)


async def retract(
    unit: Unit, incidents: service.Store, store: Store, *, root: UUID, matches: service.Matches
) -> None:
    """Retract it; it stays on record."""
    incident, old = await _locked(unit, incidents, store, root=root)
    matches(old.etag)
    await store.supersede(unit, incident.id, old, retracted=True)
    await _audit(unit, "annotation.retract", incident, root=root)


async def _locked(
    unit: Unit, incidents: service.Store, store: Store, *, root: UUID
) -> tuple[Incident, ShownAnnotation]:
    incident_id = await store.incident_of(unit, root)
    if incident_id is None:
        raise missing()
    try:
        incident = await service.lock_active(unit, incidents, incident_id)
    except NotFoundError:  # The same error for a hidden incident, so as not to reveal the annotation.
        raise missing() from None
    standing = await _standing(unit, store, root)
    if not (standing.author == unit.principal.actor or unit.principal.is_admin):
        raise ForbiddenError("Only its author or an administrator may change an annotation")
    _check_decision(unit.principal, standing.kind)
    return incident, standing


async def _standing(unit: Unit, store: Store, root: UUID) -> ShownAnnotation:
    standing = await store.annotation(unit, root)
    if standing is None:
        raise missing()
    return standing


async def _audit(unit: Unit, action: str, incident: Incident, *, root: UUID) -> None:
    await unit.audit(action, incident.ref, incident_id=incident.id, detail={"annotation": root})


def _check_decision(principal: Principal, kind: AnnotationKind) -> None:
    if kind is AnnotationKind.DECISION and not principal.may(Access.WRITE):
        raise ForbiddenError("Only responders may record decisions")


def _check_state(kind: AnnotationKind, state: AnnotationState | None) -> None:
    if kind not in STATES:
        if state is not None:
            raise _refusal("/state", "forbidden", "only a hypothesis or a question may have a state")
    elif state not in STATES[kind]:
        allowed = ", ".join(STATES[kind])
        raise _refusal("/state", "state", f"of a {kind} is one of: {allowed}")


def missing() -> NotFoundError:
    """Return the one error for what does not exist and for what the caller may not see."""
    return NotFoundError("No such annotation")


def _refusal(pointer: str, code: str, message: str) -> InvalidFieldsError:
    return InvalidFieldsError(message, errors=(FieldError(pointer, code, message),))
