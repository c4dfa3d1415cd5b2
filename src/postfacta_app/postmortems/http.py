"""The v1 API of post-mortems: read the request, call a use case, respond."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from ..aside import aside
from ..db import Answer, Transactions, Unit
from ..errors import InvalidCursorError, NotFoundError, PreconditionFailedError, PreconditionRequiredError
from ..incidents import service as incidents
from ..incidents.http import allow_stale_incidents, parse_ref
from ..incidents.query import IncidentFilters
from ..principal import Principal
from ..web.body import idempotency_key, if_match, if_none_match, read_body, read_query
from ..web.paging import decode_members, encode_members, filters_hash, next_link
from . import service
from .content import differences
from .model import (
    Against,
    Draft,
    FactorList,
    PostMortem,
    Restore,
    Revision,
    RevisionPage,
    RevisionQuery,
    RevisionsQuery,
    RevisionWithDifferences,
    Transition,
)

__all__ = ["PostMortemHttp", "parse_rev", "read_page"]

_NUMBER = re.compile("[1-9][0-9]{0,8}", re.ASCII)
_LAST = 2**31 - 1


class PostMortemHttp:
    """The handlers of post-mortems and factors.

    Args:
        transactions: Runs the writes.
        needs: The stores that a post-mortem needs.
    """

    def __init__(self, transactions: Transactions, needs: service.Needs) -> None:
        self._transactions = transactions
        self._needs = needs
        self._store = needs.revisions

    async def read(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/incidents/{ref}/postmortem."""
        found = await self._needs.timelines.facts(principal, parse_ref(request))
        if found is None:
            raise incidents.missing()
        incident, facts = found
        revision = await self._store.read(principal, incident.id)
        if revision is None:
            raise service.missing()
        allow_stale_incidents(request, [incident])
        shown = await aside(facts.size, PostMortem.of, revision, facts)
        # The body also depends on the timeline, which the revision number does not reflect.
        if not shown.timeline_changed and if_none_match(request, shown.etag):
            return Response(status_code=304, headers={"ETag": shown.etag})
        answer = await aside(facts.size, Answer.of, 200, shown, {"ETag": shown.etag})
        return answer.response()

    async def write(self, request: Request, principal: Principal) -> Response:
        """PUT /api/v1/incidents/{ref}/postmortem."""
        ref, wish = parse_ref(request), await read_body(request, Draft)

        async def work(unit: Unit) -> service.Written:
            return await service.write(unit, self._needs, ref, wish=wish, matches=_matches(request))

        return await self._answer(request, principal, work, only_first=True)

    async def move(self, request: Request, principal: Principal) -> Response:
        """POST /api/v1/incidents/{ref}/postmortem/transitions."""
        ref, wish = parse_ref(request), await read_body(request, Transition)

        async def work(unit: Unit) -> service.Written:
            return await service.transition(unit, self._needs, ref, wish=wish, matches=_matches(request))

        return await self._answer(request, principal, work, key=idempotency_key(request))

    async def restore(self, request: Request, principal: Principal) -> Response:
        """POST /api/v1/incidents/{ref}/postmortem/restore."""
        ref, wish = parse_ref(request), await read_body(request, Restore)

        async def work(unit: Unit) -> service.Written:
            return await service.restore(unit, self._needs, ref, wish=wish, matches=_matches(request))

        return await self._answer(request, principal, work, key=idempotency_key(request))

    async def revisions(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/incidents/{ref}/postmortem/revisions."""
        query, incident_id = read_query(request, RevisionsQuery), await self._incident(request, principal)
        page = await read_page(self._store, principal, incident_id, query=query)
        return Answer.of(200, page, next_link(request, page.next_cursor)).response()

    async def revision(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/incidents/{ref}/postmortem/revisions/{rev}."""
        query, incident_id = read_query(request, RevisionQuery), await self._incident(request, principal)
        shown = await self._revision(principal, incident_id, parse_rev(request))
        against = None
        if query.against is not None:
            other = await self._revision(principal, incident_id, query.against)
            against = Against(rev=other.rev, sections=differences(other.content, shown.content))
        body = RevisionWithDifferences(**dict(shown), against=against)
        return Answer.of(200, body, {"ETag": shown.etag}).response()

    async def factors(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/factors."""
        items = await self._store.factors(principal, read_query(request, IncidentFilters))
        return Answer.of(200, FactorList(items=items)).response()

    async def _incident(self, request: Request, principal: Principal) -> UUID:
        incident = await self._needs.incidents.find(principal, parse_ref(request))
        if incident is None:
            raise incidents.missing()
        return incident.id

    async def _revision(self, principal: Principal, incident_id: UUID, rev: int) -> Revision:
        revision = await self._store.read(principal, incident_id, rev)
        if revision is None:
            raise NotFoundError("No such revision, or none that you may read")
        return revision

    async def _answer(
        self,
        request: Request,
        principal: Principal,
        work: Callable[[Unit], Awaitable[service.Written]],
        *,
        key: str | None = None,
        only_first: bool = False,
    ) -> Response:
        async def answer(unit: Unit) -> Answer:
            written = await work(unit)
            # A POST creates a revision; a PUT creates the post-mortem, and later changes it.
            is_made = written.is_new and (written.revision.rev == 1 or not only_first)
            return Answer.of(201 if is_made else 200, written.revision, {"ETag": written.revision.etag})

        return await self._transactions.write(request, principal, answer, key=key)


def parse_rev(request: Request) -> int:
    """Return the revision in the path; 0, which never exists, if it is not a number."""
    number = _NUMBER.fullmatch(request.path_params["rev"])
    return int(number[0]) if number else 0


async def read_page(
    store: service.Store, principal: Principal, incident_id: UUID, *, query: RevisionsQuery
) -> RevisionPage:
    """Read a page of the revisions of an incident visible to the caller."""
    before = _before(query, incident_id)
    rows = await store.page(principal, incident_id, before=before, limit=query.limit + 1)
    items, cursor = rows[: query.limit], None
    if len(rows) > len(items):
        cursor = encode_members(str(incident_id), [items[-1].rev], filters_hash(query))
    return RevisionPage(items=items, next_cursor=cursor)


def _before(query: RevisionsQuery, incident_id: UUID) -> int | None:
    if query.cursor is None:
        return None
    match decode_members(query.cursor, str(incident_id), filters_hash(query)):
        case [int(rev)] if 1 <= rev <= _LAST:
            return rev
        case _:
            raise InvalidCursorError("Start again without a cursor")


def _matches(request: Request) -> service.Matches:
    """Check the revision a write starts from: `If-Match` names it, `If-None-Match: *` means none."""
    named, none = (", ".join(request.headers.getlist(name)) for name in ("if-match", "if-none-match"))

    def matches(etag: str | None) -> None:
        if named.strip() == "*" or (not named and none.strip() != "*"):
            detail = "Send If-Match with the ETag of the revision you change; for the first revision, send If-None-Match: *"
            raise PreconditionRequiredError(detail)
        if named and etag is not None:
            if_match(request, etag)
        elif named:
            raise PreconditionFailedError("There is no post-mortem yet: send If-None-Match: *")
        elif etag is not None:
            detail = "There already is a post-mortem: read it, and send If-Match with its ETag"
            raise PreconditionFailedError(detail, headers={"ETag": etag})

    return matches
