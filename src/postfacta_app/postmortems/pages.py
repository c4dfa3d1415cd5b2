"""The pages of a post-mortem: read, edit by section, change status, compare, restore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from .. import actions as action_items
from ..aside import LARGE, aside
from ..db import Answer, Transactions, Unit
from ..errors import NotFoundError, PreconditionFailedError
from ..incidents import service as incidents
from ..incidents.http import allow_stale_incidents, parse_ref
from ..incidents.model import Incident
from ..principal import Access, Principal
from ..timeline.model import Entry, Facts
from ..timeline.rules import build
from ..web.body import parse, read_query
from ..web.forms import Refusal, attempt, new_key, read_form
from ..web.paging import next_page
from ..web.render import Pages
from . import reading, service
from .comparison import compare
from .content import Category, Content, TriggerKind
from .form import LISTS, MOST_ROWS, SECTIONS, Form, draft, label, rows, shown, typed
from .http import parse_rev, read_page
from .model import MOVES, PostMortem, Restore, Revision, RevisionQuery, RevisionsQuery, Stage, Transition

__all__ = ["PostMortemPages"]

_MOST_CHANGED = 100  # Entries that a page lists; the API lists all.
_OTHERS = "Not saved: someone else wrote a new revision in the meantime. Compare with the current version, then save again."


class PostMortemPages:
    """The pages below `/incidents/{ref}/postmortem`.

    Args:
        transactions: Runs the writes.
        needs: The stores that a post-mortem needs.
        pages: Renders templates.
        names: Returns the display names of authors.
    """

    def __init__(
        self, transactions: Transactions, needs: service.Needs, pages: Pages, *, names: service.Names
    ) -> None:
        self._transactions = transactions
        self._needs = needs
        self._store = needs.revisions
        self._names = names
        self._pages = pages

    async def read(self, request: Request, principal: Principal) -> Response:
        """GET /incidents/{ref}/postmortem."""
        return await self._show(request, principal)

    async def edit(self, request: Request, principal: Principal) -> Response:
        """GET /incidents/{ref}/postmortem/edit/{section}."""
        section = _section(request)
        incident, facts = await self._facts(request, principal)
        last = await self._store.read(principal, incident.id)
        form = shown(section, last.content if last else Content())
        return await self._form(
            principal, section, form, known=(incident, facts, last), rev=last.rev if last else 0
        )

    async def save(self, request: Request, principal: Principal) -> Response:
        """POST /incidents/{ref}/postmortem/edit/{section}: write the next revision with this section."""
        ref, section, fields = parse_ref(request), _section(request), await read_form(request, principal)
        form, rev = typed(section, fields), _number(fields.get("rev", ""))

        async def work(unit: Unit) -> Answer:
            incident = await incidents.lock_active(unit, self._needs.incidents, ref)
            base = await self._store.read(unit.principal, incident.id, rev, fetch=unit.fetch) if rev else None
            content = base.content if base else Content()
            wish = draft(content, section, form, message=fields.get("message", ""))
            await service.write(unit, self._needs, ref, wish=wish, matches=_follows(rev))
            path = f"/incidents/{incident.ref}/postmortem"
            return Answer(
                303, {"Location": f"{path}/edit/{section}" if "more" in fields else f"{path}#{section}"}
            )

        done = await attempt(self._transactions.write(request, principal, work, key=fields.get("key")))
        if not isinstance(done, Refusal):
            return done
        known = None
        if not _is_away(done):
            incident, facts = await self._facts(request, principal)
            known = (incident, facts, await self._store.read(principal, incident.id))
            if _is_outdated(done):
                rev = known[2].rev if known[2] else 0
        sent = {"ref": request.path_params["ref"], **fields}
        return await self._form(principal, section, form, known=known, rev=rev, refusal=done, sent=sent)

    async def move(self, request: Request, principal: Principal) -> Response:
        """POST /incidents/{ref}/postmortem/moves: change its status."""
        ref, fields = parse_ref(request), await read_form(request, principal)

        async def work(unit: Unit) -> Answer:
            message = fields.get("message", "").strip() or None
            wish = parse(Transition, {"to": fields.get("to", ""), "message": message})
            incident = await incidents.lock_active(unit, self._needs.incidents, ref)
            await service.transition(
                unit, self._needs, ref, wish=wish, matches=_follows(_number(fields.get("rev", "")))
            )
            return Answer(303, {"Location": f"/incidents/{incident.ref}/postmortem"})

        done = await attempt(self._transactions.write(request, principal, work, key=fields.get("key")))
        return (
            await self._show(request, principal, refusal=done, fields=fields)
            if isinstance(done, Refusal)
            else done
        )

    async def restore(self, request: Request, principal: Principal) -> Response:
        """POST /incidents/{ref}/postmortem/restore: restore an older revision."""
        ref, fields = parse_ref(request), await read_form(request, principal)

        async def work(unit: Unit) -> Answer:
            wish = parse(Restore, {"rev": _number(fields.get("restore", ""))})
            incident = await incidents.lock_active(unit, self._needs.incidents, ref)
            await service.restore(
                unit, self._needs, ref, wish=wish, matches=_follows(_number(fields.get("rev", "")))
            )
            return Answer(303, {"Location": f"/incidents/{incident.ref}/postmortem"})

        done = await attempt(self._transactions.write(request, principal, work, key=fields.get("key")))
        return (
            await self._show(request, principal, refusal=done, fields=fields)
            if isinstance(done, Refusal)
            else done
        )

    async def revisions(self, request: Request, principal: Principal) -> Response:
        """GET /incidents/{ref}/postmortem/revisions."""
        query, incident = (
            read_query(request, RevisionsQuery, is_page=True),
            await self._incident(request, principal),
        )
        page = await read_page(self._store, principal, incident.id, query=query)
        context = {
            "revisions": page.items,
            "names": await self._names({it.author for it in page.items}),
            "next_url": next_page(request, page.next_cursor) if page.next_cursor else None,
        }
        return self._render(principal, incident, "revisions.html", context=context)

    async def revision(self, request: Request, principal: Principal) -> Response:
        """GET /incidents/{ref}/postmortem/revisions/{rev}: show it, or its differences from another."""
        query = read_query(request, RevisionQuery, is_page=True)
        incident, facts = await self._facts(request, principal)
        asked = await self._revision(principal, incident.id, parse_rev(request))
        against = query.against and await self._revision(principal, incident.id, query.against)
        last = await self._store.read(principal, incident.id)
        names = await self._names({asked.author})

        def draw() -> Response:
            context = {
                "revision": asked,
                "last": last,
                "against": against,
                "differences": compare(against.content, asked.content) if against else None,
                "cited": reading.cited(asked.content, build(facts).entries),
                "names": names,
                "sections": SECTIONS,
                "key": new_key(),
            }
            return self._render(principal, incident, "revision.html", context=context)

        return await aside(LARGE, draw)

    async def _show(
        self,
        request: Request,
        principal: Principal,
        *,
        refusal: Refusal | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Response:
        fields = fields or {}
        if refusal is not None and _is_away(refusal):
            context = {
                "ref": request.path_params["ref"],
                "form": fields,
                "refusal": refusal,
                "key": _key(refusal, fields),
            }
            return self._answer(principal, "postmortem_unsaved.html", context, refusal=refusal)
        incident, facts = await self._facts(request, principal)
        last = await self._store.read(principal, incident.id)
        actions = await action_items.of(self._transactions.reader(principal), incident.id)
        if refusal is None:
            allow_stale_incidents(request, [incident])
        names = await self._names({last.author} if last else set())

        def draw() -> Response:
            content = last.content if last else Content()
            timeline = build(facts)
            entries = timeline.entries
            moved = PostMortem.of(last, facts, timeline).timeline_changes if last else None
            changed: Sequence[reading.Mention] = reading.changed(moved) if moved else ()
            stage = last.status if last else None
            context = {
                "revision": last,
                "content": content,
                "names": names,
                "headline": reading.headline(moved) if moved else None,
                "changed": changed[:_MOST_CHANGED],
                "unlisted": len(changed[_MOST_CHANGED:]),
                "cited": reading.cited(content, entries),
                "narrative": reading.narrative(entries),
                "actions": actions,
                "missing": reading.missing(content, actions),
                "moves": [it for it in MOVES[stage] if it is not Stage.WAIVED],
                "may_waive": Stage.WAIVED in MOVES[stage],
                "sections": SECTIONS,
                "form": fields,
                "refusal": refusal,
                "errors": refusal.by_field if refusal else {},
                "key": new_key() if "message" in fields else _key(refusal, fields),
                "waive_key": _key(refusal, fields) if "message" in fields else new_key(),
            }
            return self._render(principal, incident, "postmortem.html", context=context, refusal=refusal)

        return await aside(LARGE, draw)

    async def _form(
        self,
        principal: Principal,
        section: str,
        form: Form,
        *,
        known: tuple[Incident, Facts, Revision | None] | None,
        rev: int,
        refusal: Refusal | None = None,
        sent: Mapping[str, str] | None = None,
    ) -> Response:
        sent = sent or {}

        def draw() -> Response:
            entries: Sequence[Entry] = build(known[1]).entries if known else ()
            there = known[2].content if known and known[2] and refusal and _is_outdated(refusal) else None
            count = len(rows(section, form))
            context = {
                "ref": known[0].ref if known else sent.get("ref", ""),
                "section": section,
                "title": SECTIONS[section],
                "sections": SECTIONS,
                "is_list": section in LISTS,
                "form": {**form, "message": sent.get("message", "")},
                "count": min(count + 1, MOST_ROWS),
                "rev": rev,
                "there": there,
                "cited": reading.cited(there, entries) if there else {},
                "entries": reading.offered(entries),
                "refusal": refusal,
                "errors": refusal.by_field if refusal else {},
                "labels": {name: label(name) for name in refusal.by_field} if refusal else {},
                "key": _key(refusal, sent),
                "kinds": list(TriggerKind),
                "categories": list(Category),
            }
            return self._answer(principal, "postmortem_edit.html", context, refusal=refusal)

        return await aside(LARGE, draw)

    async def _facts(self, request: Request, principal: Principal) -> tuple[Incident, Facts]:
        found = await self._needs.timelines.facts(principal, parse_ref(request))
        if found is None:
            raise incidents.missing()
        return found

    async def _incident(self, request: Request, principal: Principal) -> Incident:
        incident = await self._needs.incidents.find(principal, parse_ref(request))
        if incident is None:
            raise incidents.missing()
        return incident

    async def _revision(self, principal: Principal, incident_id: UUID, rev: int) -> Revision:
        revision = await self._store.read(principal, incident_id, rev)
        if revision is None:
            raise NotFoundError("No such revision, or none that you may read")
        return revision

    def _render(
        self,
        principal: Principal,
        incident: Incident,
        template: str,
        *,
        context: Mapping[str, object],
        refusal: Refusal | None = None,
    ) -> Response:
        may_write = principal.may(Access.WRITE) and incident.archived_at is None
        known = {"item": incident, "tab": "postmortem", "may_write": may_write, **context}
        return self._answer(principal, template, known, refusal=refusal)

    def _answer(
        self, principal: Principal, template: str, context: Mapping[str, object], *, refusal: Refusal | None
    ) -> Response:
        status, headers = (refusal.status, refusal.headers) if refusal else (200, None)
        told = {"here": "incidents", **context}
        return self._pages.page(template, told, principal=principal, status=status, headers=headers)


def _section(request: Request) -> str:
    section: str = request.path_params["section"]
    if section not in SECTIONS:
        raise NotFoundError("No such section of a post-mortem")
    return section


def _number(text: str) -> int:
    """Parse the number of a revision; 0 is before the first, or not a number."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0  # noqa: PLR2004 - 9 digits fit


def _follows(rev: int) -> service.Matches:
    def matches(etag: str | None) -> None:
        if etag != (f'"pm-{rev}"' if rev else None):
            raise PreconditionFailedError(_OTHERS)

    return matches


def _is_away(refusal: Refusal) -> bool:
    return refusal.status >= 500  # noqa: PLR2004 - then reads fail too


def _is_outdated(refusal: Refusal) -> bool:
    return refusal.status == PreconditionFailedError.status or refusal.is_spent


def _key(refusal: Refusal | None, sent: Mapping[str, str]) -> str:
    return new_key() if refusal is None or refusal.is_spent else sent.get("key") or new_key()
