"""The forms of an incident's page: status changes, annotations, timeline edits, signals, links."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.clock import WALL, Clock

from . import links
from .db import Answer, Transactions, Unit
from .errors import ConflictError, FieldError, PreconditionFailedError
from .incident_view import IncidentView, Needs, Typed, Visit, visit_of
from .incidents import api as incidents
from .incidents.access import lock_active, missing, read_ref
from .incidents.model import Move
from .principal import Principal
from .signals import service as signals
from .signals.model import Attached
from .timeline import annotations as remarks, edits, http as timeline
from .timeline.annotations import AnnotationChange, NewAnnotation
from .timeline.model import Op
from .timeline.typed import read_edit
from .timeline.view import anchor
from .web.forms import Refusal, attempt, parse, read_form
from .web.render import Pages

__all__ = ["IncidentPage"]

_SIGNAL: Final = re.compile(r"signal-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_OTHERS: Final = (
    "This note was changed by someone else in the meantime. Check its current text, then repeat your change."
)


class IncidentPage:
    """The handlers of one incident's page and its forms.

    Args:
        transactions: Runs the writes.
        needs: The stores it reads and writes.
        pages: Renders templates.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, transactions: Transactions, needs: Needs, pages: Pages, *, clock: Clock = WALL
    ) -> None:
        self._transactions = transactions
        self._needs = needs
        self._view = IncidentView(transactions, needs, pages, clock=clock)
        self._clock = clock

    async def show(self, request: Request, principal: Principal) -> Response:
        """GET /incidents/{ref}."""
        return await self._view.page(visit_of(request, principal), Typed())

    async def move(self, request: Request, principal: Principal) -> Response:
        """POST /incidents/{ref}/moves."""
        fields, visit = await read_form(request, principal), visit_of(request, principal)
        typed = Typed(f"move-{fields.get('to')}", fields)
        wish = parse(Move, fields)
        if isinstance(wish, tuple):
            return await self._refuse(visit, typed, wish)

        async def use(unit: Unit) -> str:
            await incidents.transition(unit, visit.ref, wish, now=self._now())
            return ""

        return await self._save(visit, typed, use)

    async def note(self, request: Request, principal: Principal) -> Response:
        """POST /incidents/{ref}/notes."""
        fields, visit = await read_form(request, principal), visit_of(request, principal)
        entry = {"source": fields["source"], "id": fields.get("id", "")} if "source" in fields else None
        about = anchor(entry["source"], entry["id"]) if entry else ""
        typed = Typed(f"note-{about}" if about else "note", fields)
        new = parse(NewAnnotation, {**fields, "entry": entry})
        if isinstance(new, tuple):
            return await self._refuse(visit, typed, new)

        async def use(unit: Unit) -> str:
            needs = self._needs
            added = await remarks.add(
                unit, needs.incidents, needs.timelines, ref=visit.ref, new=new, now=self._now()
            )
            return about or (anchor("human", f"annotation:{added.id}") if new.occurred_at else "notes")

        return await self._save(visit, typed, use)

    async def renote(self, request: Request, principal: Principal) -> Response:
        """POST /incidents/{ref}/notes/{root}: edit an annotation, set its state, or retract it."""
        fields, visit = await read_form(request, principal), visit_of(request, principal)
        typed = Typed(f"renote-{request.path_params['root']}", fields)
        wish = parse(AnnotationChange, fields)
        if isinstance(wish, tuple):
            return await self._refuse(visit, typed, wish)
        needs, root = self._needs, timeline.root_of(request)

        def matches(etag: str) -> None:
            if etag != f'"ann-{fields.get("version", "")}"':
                raise PreconditionFailedError(_OTHERS)

        async def use(unit: Unit) -> str:
            incident = await lock_active(unit, visit.ref)
            if await needs.timelines.incident_of(unit, root) != incident.id:
                raise remarks.missing()
            if fields.get("op") == "retract":
                await remarks.retract(unit, needs.incidents, needs.timelines, root=root, matches=matches)
                return "timeline"
            said = await remarks.change(
                unit, needs.incidents, needs.timelines, root=root, wish=wish, matches=matches
            )
            return f"r-{said.id}"

        return await self._save(visit, typed, use)

    async def edit(self, request: Request, principal: Principal) -> Response:
        """POST /incidents/{ref}/edits."""
        fields, visit = await read_form(request, principal), visit_of(request, principal)
        if (op := fields.get("op", "")) == Op.ATTACH:
            return await self._attach(visit, Typed(op, fields))
        about = anchor(fields["source"], fields["id"]) if {"source", "id"} <= fields.keys() else ""
        typed = Typed(f"{op}-{about}" if about else op, fields)
        if op == Op.DETACH:
            return await self._detach(visit, typed)
        new = read_edit(fields)
        if isinstance(new, tuple):
            return await self._refuse(visit, typed, new)

        async def use(unit: Unit) -> str:
            needs = self._needs
            await edits.add(unit, needs.incidents, needs.timelines, ref=visit.ref, new=new, now=self._now())
            return "timeline" if new.op == "hide" else about or "timeline"

        return await self._save(visit, typed, use)

    async def link(self, request: Request, principal: Principal) -> Response:
        """POST /incidents/{ref}/links."""
        fields, visit = await read_form(request, principal), visit_of(request, principal)
        is_over = fields.get("op") == "unlink"
        form = f"unlink-{fields.get('type')}-{fields.get('to')}" if is_over else "link"
        typed, new = Typed(form, fields), parse(links.NewLink, fields)
        if isinstance(new, tuple):
            return await self._refuse(visit, typed, new)

        here, to = visit.ref, new.to.strip().upper()

        async def use(unit: Unit) -> str:
            if not is_over:
                await links.link(unit, here, new.model_copy(update={"to": to}))
            elif (there := read_ref(to)) is None:
                raise missing()
            else:
                ends = (there, here) if fields.get("direction") == "in" else (here, there)
                await links.unlink(unit, *ends, type=new.type)
            return ""

        return await self._save(visit, typed, use)

    async def _attach(self, visit: Visit, typed: Typed) -> Response:
        ids = [UUID(name.removeprefix("signal-")) for name in typed.fields if _SIGNAL.fullmatch(name)]
        if not ids:
            error = FieldError("/", "required", "choose at least one signal")
            return await self._refuse(visit, typed, [error])

        async def use(unit: Unit) -> str:
            incident = await lock_active(unit, visit.ref)
            done = await signals.attach(unit, self._needs.signals, incident, ids=ids)
            if any(it.result is Attached.FULL for it in done):
                raise ConflictError(f"Not attached: {signals.full(incident)}")
            return "timeline"

        return await self._save(visit, typed, use)

    async def _detach(self, visit: Visit, typed: Typed) -> Response:
        try:
            signal_id = UUID(typed.fields.get("signal", ""))
        except ValueError:
            raise signals.missing() from None

        async def use(unit: Unit) -> str:
            incident = await lock_active(unit, visit.ref)
            await signals.detach(unit, self._needs.signals, incident, signal_id=signal_id)
            return "timeline"

        return await self._save(visit, typed, use)

    async def _save(self, visit: Visit, typed: Typed, use: Callable[[Unit], Awaitable[str]]) -> Response:
        """Run the write of a form and redirect to its result, or show the form again with the error."""
        path, given = (
            f"/incidents/{visit.request.path_params['ref']}",
            visit.request.query_params.multi_items(),
        )

        async def work(unit: Unit) -> Answer:
            place, shown = await use(unit), given
            if (
                place.startswith("e-") and "page" in visit.request.query_params
            ):  # It may be on another page now.
                shown = [(name, text) for name, text in given if name != "page"] + [("entry", place)]
            page = f"{path}?{urlencode(shown)}" if shown else path
            return Answer(303, {"Location": f"{page}#{place}" if place else page})

        write = self._transactions.write(visit.request, visit.principal, work, key=typed.fields.get("key"))
        done = await attempt(write)
        return done if isinstance(done, Response) else await self._again(visit, typed, done)

    async def _refuse(self, visit: Visit, typed: Typed, errors: Sequence[FieldError]) -> Response:
        return await self._again(visit, typed, Refusal(errors=errors))

    async def _again(self, visit: Visit, typed: Typed, refusal: Refusal) -> Response:
        # If reads fail too, the error page holds the form.
        typed = replace(typed, refusal=refusal)
        return await self._view.page(visit, typed, status=refusal.status, headers=refusal.headers)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
