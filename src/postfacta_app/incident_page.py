"""The page of one incident and its forms: status changes, annotations, timeline edits, signals, links, labels."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Final
from urllib.parse import urlencode
from uuid import UUID

from . import labels, links
from .aside import LARGE
from .db import Unit
from .errors import ConflictError, FieldError, InvalidFieldsError, NotFoundError
from .incident_view import View, context, read_page, read_shown
from .incidents import api as incidents
from .incidents.access import Ref, Share, lock_active, missing, read_ref
from .incidents.model import Move
from .principal import Access
from .signals import api as signals
from .signals.model import Attached, Attachments
from .timeline import api as timeline, postgres as timelines
from .timeline.annotations import AnnotationChange, NewAnnotation
from .timeline.edits import NewEdit
from .timeline.model import Op, Precision
from .timeline.typed import precision_of, read_edit
from .timeline.view import anchor
from .web.calls import Call, Fields, Fill, Matches, Now, Snapshot
from .web.forms import formed
from .web.slices import Page, Routes

_ONE: Final = "/incidents/{ref}"
_SIGNAL: Final = re.compile(r"signal-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
routes: Final = Routes("note")


def _back(call: Call, _: str) -> Callable[[str], str]:
    path, given = f"/incidents/{call.request.path_params['ref']}", call.request.query_params.multi_items()

    def back(place: str) -> str:
        shown = given
        if place.startswith("e-") and "page" in call.request.query_params:  # It may be on another page now.
            shown = [(name, text) for name, text in given if name != "page"] + [("entry", place)]
        page = f"{path}?{urlencode(shown)}" if shown else path
        return f"{page}#{place}" if place else page

    return back


Back = Annotated[Callable[[str], str], Fill(_back)]
"""Returns the address of the page as it was, at a place."""


@routes.page(_ONE, Access.READ, stale=True)
async def show(unit: Snapshot, ref: Ref, view: View, *, kept: timeline.Kept, now: Now, share: Share) -> Page:
    page = await read_page(unit, ref, view, kept=kept)
    incident = page.incident
    joined, labelled = await links.of(unit, incident.id), await labels.of(unit, incident.id)
    share(incident.visibility, *(it.incident.visibility for it in joined))
    shown = await read_shown(unit, view, page=page, now=now)
    more = partial(context, shown, joined, principal=unit.principal)
    same = {"here": "incidents", "tab": "timeline", "labelled": labelled}
    return Page("incident.html", same, size=LARGE, more=more)


@routes.form(f"{_ONE}/moves", Access.WRITE, again=show)
async def move(unit: Unit, ref: Ref, wish: Move, *, now: Now, back: Back) -> str:
    await incidents.transition(unit, ref, wish, now=now)
    return back("")


# Annotations


def _new_note(call: Call, _: str) -> NewAnnotation:
    fields = call.fields
    entry = {"source": fields["source"], "id": fields.get("id", "")} if "source" in fields else None
    when = fields.get("occurred_at", "").strip()
    precision = precision_of(when) if when else None
    when = f"{when} 00:00" if precision is Precision.DAY else when
    given = {**fields, "entry": entry, "occurred_at": when, "precision": precision}
    return formed(NewAnnotation, given, call.now)


NewNote = Annotated[NewAnnotation, Fill(_new_note)]


@routes.form(f"{_ONE}/notes", Access.ANNOTATE, again=show)
async def note(unit: Unit, ref: Ref, new: NewNote, *, now: Now, back: Back) -> str:
    added = await timeline.add_annotation(unit, ref, new, now=now)
    if new.entry is not None:
        return back(anchor(new.entry.source, new.entry.id))
    return back(anchor("human", f"annotation:{added.id}") if new.occurred_at else "notes")


@routes.form(f"{_ONE}/notes/{{root}}", Access.ANNOTATE, again=show)
async def renote(
    unit: Unit, ref: Ref, root: UUID, *, wish: AnnotationChange, fields: Fields, matches: Matches, back: Back
) -> str:
    incident, found = await lock_active(unit, ref), await timelines.annotation(unit, root)
    if found[0] != incident.id:
        raise NotFoundError("No such annotation")
    if fields.get("op") == "retract":
        await timeline.retract(unit, root, matches=matches)
        return back("timeline")
    return back(f"r-{(await timeline.change(unit, root, wish, matches=matches)).id}")


# Edits


def _wish(call: Call, _: str) -> NewEdit | Attachments | UUID:
    """Return the edit, the signals to attach, or the signal to detach."""
    fields = call.fields
    if fields.get("op") == Op.ATTACH:
        ids = [UUID(name.removeprefix("signal-")) for name in fields if _SIGNAL.fullmatch(name)]
        if not ids:
            wrong = FieldError("/", "required", "choose at least one signal")
            raise InvalidFieldsError("Some fields are invalid", errors=[wrong])
        return Attachments(ids=ids)
    if fields.get("op") == Op.DETACH:
        try:
            return UUID(fields.get("signal", ""))
        except ValueError:
            raise signals.missing() from None
    new = read_edit(fields, call.now)
    if isinstance(new, tuple):
        raise InvalidFieldsError("Some fields are invalid", errors=new)
    return new


Wish = Annotated[NewEdit | Attachments | UUID, Fill(_wish)]


@routes.form(f"{_ONE}/edits", Access.WRITE, again=show)
async def edit(unit: Unit, ref: Ref, wish: Wish, *, fields: Fields, now: Now, back: Back) -> str:
    if isinstance(wish, Attachments):
        done = await signals.attach(unit, ref, wish)
        if any(it.result is Attached.FULL for it in done.results):
            raise ConflictError(f"Not attached: {signals.full(await lock_active(unit, ref))}")
        return back("timeline")
    if isinstance(wish, UUID):
        await signals.detach(unit, ref, wish)
        return back("timeline")
    await timeline.add_edit(unit, ref, wish, now=now)
    has_entry = {"source", "id"} <= fields.keys() and wish.op != "hide"
    return back(anchor(fields["source"], fields["id"]) if has_entry else "timeline")


# Links


@routes.form(f"{_ONE}/links", Access.WRITE, again=show)
async def link(unit: Unit, ref: Ref, new: links.NewLink, *, fields: Fields, back: Back) -> str:
    to = new.to.strip().upper()
    if fields.get("op") != "unlink":
        await links.link(unit, ref, new.model_copy(update={"to": to}))
    elif (there := read_ref(to)) is None:
        raise missing()
    else:
        ends = (there, ref) if fields.get("direction") == "in" else (ref, there)
        await links.unlink(unit, *ends, type=new.type)
    return back("")


# Labels


@routes.form(f"{_ONE}/labels", Access.WRITE, again=show)
async def label(unit: Unit, ref: Ref, *, fields: Fields, matches: Matches, back: Back) -> str:
    given = fields.get("labels", "").strip() or list[str]()  # An emptied field removes all.
    await labels.replace(unit, ref, formed(labels.Labels, {"labels": given}), matches=matches)
    return back("")
