"""Action items of incidents: their model, rules, SQL, API and pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from enum import StrEnum
from functools import partial
from typing import Annotated, Final
from uuid import UUID, uuid4

from pydantic import BaseModel, BeforeValidator, Field, StringConstraints
from starlette.requests import Request

from .db import VISIBLE, Query, Reader, Unit, insert, row, rows, update
from .errors import ConflictError, NotFoundError, invalid
from .incidents.access import Ref, lock_active, read_incident, ref_text
from .incidents.api import list_page
from .incidents.model import Owner, Reason, Slug, Title
from .principal import Access
from .web.body import WHOLE, Listed, Paged, Time, parse
from .web.forms import Typed, fields_of
from .web.merging import any_version, merged
from .web.routes import RouteClass
from .web.slices import Fields, Matches, Now, Page, Routes

READ = Access.READ
WRITE = Access.WRITE
MOST: Final = 200  # the most action items of an incident; they are shown on one page
routes: Final = Routes("action item")


class ActionType(StrEnum):
    """What an action item is for."""

    PREVENT = "prevent"
    DETECT = "detect"
    MITIGATE = "mitigate"
    RESPOND = "respond"
    LEARN = "learn"


class ActionStatus(StrEnum):
    """The status of an action item."""

    OPEN = "open"
    IN_PROGRESS = "in_progress"
    DONE = "done"
    WONT_DO = "wont_do"


CLOSED: Final = (ActionStatus.DONE, ActionStatus.WONT_DO)
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def _day(value: object) -> date:
    if not _DAY.fullmatch(str(value)):
        raise ValueError("must be a date, such as 2026-02-07")
    return date.fromisoformat(str(value))


Day = Annotated[date, BeforeValidator(_day)]
Priority = Annotated[int, Field(strict=True, ge=1, le=4), WHOLE]
# RFC 3986 has no other character, and none of these can end a link in HTML or Markdown.
Url = Annotated[str, StringConstraints(pattern=r"^https?://[!#-;=?-\[\]_a-z~]+$", max_length=2000)]


class NewAction(BaseModel, extra="forbid"):
    """A new action item."""

    type: ActionType
    title: Title
    factor: Slug | None = Field(
        None, description="The slug of the contributing factor it addresses."
    )
    owner: Owner | None = None
    priority: Priority | None = Field(None, description="1 is the most urgent.")
    due_on: Day | None = None
    url: Url | None = Field(None, description="Its page in an issue tracker.")


class ActionChange(BaseModel, extra="forbid"):
    """A JSON Merge Patch (RFC 7396): absent fields stay, null clears optional ones."""

    # See incidents.model.Change: a factory makes a field optional; its value is never read.
    type: ActionType = Field(default_factory=lambda: ActionType.LEARN)
    title: Title = Field(default_factory=str)
    factor: Slug | None = None
    owner: Owner | None = None
    priority: Priority | None = None
    due_on: Day | None = None
    url: Url | None = None
    status: ActionStatus = Field(default_factory=lambda: ActionStatus.OPEN)
    closed_reason: Reason | None = None


class Action(BaseModel, frozen=True):
    """An action item as it is stored and returned."""

    id: UUID
    incident_id: UUID
    incident: str = Field(description="The reference of its incident, such as `INC-12`.")
    type: ActionType
    title: str
    factor: str | None
    owner: str | None
    priority: int | None
    due_on: date | None
    url: str | None
    status: ActionStatus
    closed_at: Time | None
    closed_reason: str | None
    version: int
    created_by: str
    created_at: Time
    updated_at: Time

    @property
    def etag(self) -> str:
        return f'"act-{self.version}"'

    @property
    def is_open(self) -> bool:
        return self.status not in CLOSED

    def days_left(self, now: datetime) -> int | None:
        """Return the days until it is due, in UTC, below 0 once overdue.

        None without a due date, or once closed.
        """
        return (self.due_on - now.date()).days if self.due_on and self.is_open else None


class ActionList(BaseModel):
    """All action items of one incident, oldest first."""

    items: Sequence[Action]


class ActionPage(Listed[Action]):
    """Action items of many incidents by due date (none last), and the cursor of the next page."""


class ActionQuery(Paged, frozen=True):
    """The filters; different ones are joined by "and"."""

    status: list[ActionStatus] = Field([], max_length=20)
    owner: list[Owner] = Field([], max_length=20)
    overdue: bool | None = Field(None, description="Whether it is open after its due date, in UTC.")


def change(old: Action, patch: ActionChange, now: datetime) -> Action:
    """Apply a patch.

    Raise if it is closed as `wont_do` without a reason, or is open and has one. A new status clears
    the reason, unless the patch has one.
    """
    fields = {name: getattr(patch, name) for name in patch.model_fields_set}
    status = fields.get("status", old.status)
    if status != old.status:
        old = old.model_copy(update={"closed_at": now, "closed_reason": None})
    if status not in CLOSED:
        if fields.get("closed_reason") is not None:
            raise invalid(
                "/closed_reason", "forbidden", "only a closed action item may have a reason"
            )
        fields |= {"closed_at": None, "closed_reason": None}
    new = old.model_copy(update=fields)
    if status is ActionStatus.WONT_DO and new.closed_reason is None:
        raise invalid("/closed_reason", "required", "closing as won't do requires a reason")
    return new


_SELECT: Final = f"""
select {", ".join(f"a.{name}" for name in Action.model_fields if name != "incident")},
       'INC-' || i.number as incident
  from action_items a
  join incidents i on i.id = a.incident_id
 where {VISIBLE}"""  # noqa: S608 - only constants of our modules
_ACTION: Final = f"{_SELECT} and a.id = $3"
_OF: Final = f"{_SELECT} and a.incident_id = $3 order by a.created_at, a.id"
# The driver maps `date.max` to infinity, so it sorts with the items without a due date.
_PAGE: Final = f"""{_SELECT}
   and i.archived_at is null
   and ($3::text[] = '{{}}' or a.status = any ($3))
   and ($4::text[] = '{{}}' or a.owner = any ($4))
   and ($5::boolean is null
     or $5 = coalesce(
       a.closed_at is null and a.due_on < (now() at time zone 'UTC')::date,
       false))
   and ($6::date is null or (coalesce(a.due_on, 'infinity'), a.id) > ($6, $7::uuid))
 order by coalesce(a.due_on, 'infinity'), a.id
 limit $8"""


async def of(q: Query, incident_id: UUID) -> list[Action]:
    return await rows(q, Action, _OF, incident_id, operation="actions_of")


@routes.api(
    "GET /api/v1/incidents/{ref}/action-items", READ, "List the action items of an incident"
)
async def list_of(q: Reader, ref: Ref) -> ActionList:
    return ActionList(items=await of(q, (await read_incident(q, ref)).id))


@routes.api("POST /api/v1/incidents/{ref}/action-items", WRITE, "Create an action item", once=True)
async def add(unit: Unit, ref: Ref, new: NewAction) -> Action:
    incident = await lock_active(unit, ref)
    if len(await of(unit, incident.id)) >= MOST:
        raise ConflictError(f"{incident.ref} has {MOST} action items, which is the maximum")
    action_id = uuid4()
    columns = {"incident_id": incident.id, "created_by": unit.principal.actor, **dict(new)}
    await insert(unit, "action_items", id=action_id, **columns)
    await unit.stamp(incident.id)  # So that an incremental pull sees it.
    await unit.audit("action.create", f"action:{action_id}", incident_id=incident.id)
    return await read(unit, action_id)


@routes.api("GET /api/v1/action-items", READ, "List action items of all incidents by due date")
async def page(q: Reader, query: ActionQuery) -> ActionPage:
    due, last = query.after("due_on") or (None, None)
    args = (query.status, query.owner, query.overdue, due and due.date(), last, query.limit + 1)
    actions = await rows(q, Action, _PAGE, *args, operation="action_list")

    def place(action: Action) -> tuple[datetime, UUID]:
        return datetime.combine(action.due_on or date.max, time(), UTC), action.id

    return query.page(ActionPage, actions, "due_on", key=place)


@routes.api("GET /api/v1/action-items/{id}", READ, "Read an action item", conditional=True)
async def read(q: Query, id: UUID) -> Action:
    action = await row(q, Action, _ACTION, id, operation="action_get")
    if action is None:
        raise NotFoundError("No such action item")
    return action


@routes.api("PATCH /api/v1/action-items/{id}", WRITE, "Change an action item by JSON Merge Patch")
async def amend(unit: Unit, id: UUID, patch: ActionChange, *, matches: Matches, now: Now) -> Action:
    await lock_active(unit, (await read(unit, id)).incident_id)
    old = await read(unit, id)  # From here on the row is locked.
    matches(old.etag)
    new = change(old, patch, now)
    if new == old:
        return old
    before = old.model_dump(mode="json", include=patch.model_fields_set)
    after = new.model_dump(mode="json", include=patch.model_fields_set)
    detail = {name: [before[name], after[name]] for name in after if before[name] != after[name]}
    columns = {name: getattr(new, name) for name in (*ActionChange.model_fields, "closed_at")}
    await update(unit, "action_items", id, **columns)
    await unit.stamp(new.incident_id)
    await unit.audit("action.change", f"action:{id}", incident_id=new.incident_id, detail=detail)
    return await read(unit, id)


def order(actions: Sequence[Action]) -> Sequence[Action]:
    """Sort open action items first, and each part by due date, those without one last."""
    return sorted(actions, key=lambda action: (not action.is_open, action.due_on or date.max))


@routes.page("/actions", READ, kind=RouteClass.SEARCH)
async def listed(q: Reader, *, request: Request, now: Now) -> Page:
    names = ("owner", "status", "overdue")
    _, shown = await list_page(request, ActionQuery, partial(page, q), names=names)
    shown |= {"statuses": list(ActionStatus), "now": now}
    return Page("all_actions.html", shown, status=400 if shown["errors"] else 200)


@routes.page("/incidents/{ref}/actions", READ)
async def board(q: Reader, ref: Ref, *, now: Now, typed: Typed) -> Page:
    incident = None if typed.is_away else await read_incident(q, ref)
    actions = await of(q, incident.id) if incident else []
    context = {
        "item": incident,
        "ref": incident.ref if incident else ref_text(ref),
        "items": order(actions),
        "now": now,
        "new": fields_of(NewAction),
        "changed": fields_of(ActionChange),
    }
    return Page("actions.html", context)


@routes.form("/incidents/{ref}/actions", WRITE, again=board)
async def add_form(unit: Unit, ref: Ref, new: NewAction) -> str:
    action = await add(unit, ref, new)
    return f"/incidents/{action.incident}/actions#a-{action.id}"


@routes.form("/incidents/{ref}/actions/{id}", WRITE, again=board)
async def amend_form(unit: Unit, ref: Ref, id: UUID, *, fields: Fields, now: Now) -> str:
    incident = await lock_active(unit, ref)
    old = await read(unit, id)
    if old.incident_id != incident.id:
        raise NotFoundError("No such action item")
    stored = {name: getattr(old, name) for name in ActionChange.model_fields}
    sent = await merged(unit, fields, stored, incident_id=incident.id, of=f"action:{id}")
    patch = parse(ActionChange, {name: text or None for name, text in sent.items()})
    await amend(unit, id, patch, matches=any_version, now=now)
    return f"/incidents/{incident.ref}/actions#a-{id}"
