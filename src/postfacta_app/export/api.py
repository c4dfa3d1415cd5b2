"""Build export documents, each from one snapshot of the database, and respond with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from .. import actions, links
from ..aside import aside
from ..db import Query, Unit
from ..errors import InvalidCursorError, NotFoundError
from ..incidents.access import COLUMNS, Ref, seen
from ..incidents.model import Incident
from ..incidents.postgres import incident_of, where_of
from ..incidents.query import Key
from ..postmortems import postgres as revisions
from ..postmortems.model import PostMortem
from ..principal import Access
from ..timeline.edits import EntryRef
from ..timeline.postgres import facts_in
from ..timeline.rules import build
from ..web.body import format_time, if_none_match, parse_time
from ..web.paging import decode_members, encode_members, filters_hash, next_link
from ..web.routes import RouteClass
from ..web.slices import Routes, Snapshot
from .markdown import to_markdown
from .model import Document, ExportFormat, ExportQuery, OneQuery, Remark, TimelineDocument

__all__ = ["NDJSON", "routes"]

NDJSON: Final = "application/x-ndjson"
_MARKDOWN: Final = "text/markdown; charset=utf-8"
_MOST_BYTES: Final = 8 * 2**20
"""The most bytes of a page, so that a few large incidents do not exhaust memory."""
routes: Final = Routes("export")


# SQL

_CHANGED: Final = "greatest(i.updated_at, i.timeline_at)"
_PAGE: Final = f"""
select {COLUMNS}, {_CHANGED} as changed from incidents i where {{where}} order by changed, i.id limit {{limit}}"""  # noqa: S608 - only constants of our modules
_AS_OF: Final = "select now() - interval '15 seconds' as as_of"  # No write transaction lives longer.
_REMARKS: Final = """
select a.root as id, a.kind, a.state, a.body, a.entry_source, a.entry_id, a.occurred_at, f.author, f.at
  from annotations a join annotations f on f.id = a.root
 where a.incident_id = $1 and not a.retracted and not exists (select from annotations l where l.supersedes = a.id)
 order by f.at, f.id"""


async def _page(unit: Unit, query: ExportQuery, after: Key | None) -> Sequence[tuple[Incident, datetime]]:
    """Read one more than a page holds, least recently changed first, each with its last change."""
    where = where_of(unit.principal, query)
    if after is not None:
        where.add(f"({_CHANGED}, i.id) > ({{}}::timestamptz, {{}}::uuid)", *after)
    sql = _PAGE.format(where=where, limit=where.bind(query.limit + 1))
    rows = await unit.fetch(sql, *where.args, operation="export_page")
    return [(incident_of(row), row["changed"]) for row in rows]


async def _remarks(q: Query, incident_id: UUID) -> Sequence[Remark]:
    """Read the annotations of an incident that the caller has read, oldest first."""
    rows = await q.fetch(_REMARKS, incident_id, operation="export_remarks")

    def entry(row: Any) -> EntryRef | None:
        return EntryRef(source=row["entry_source"], id=row["entry_id"]) if row["entry_source"] else None

    return [Remark.model_validate({**row, "entry": entry(row)}) for row in rows]


# API


@routes.api(
    "GET /api/v1/incidents/{ref}/export", Access.READ, "Export an incident",
    kind=RouteClass.SEARCH, also=("text/markdown",), conditional=True,
)  # fmt: skip
async def one(
    unit: Snapshot, ref: Ref, query: OneQuery, *, request: Request
) -> Annotated[Response, Document]:
    document = await _document(unit, await seen(unit, ref), rev=query.rev)
    if query.rev is not None and document.postmortem is None:
        raise NotFoundError("No such revision, or none that you may read")
    is_text = query.format is ExportFormat.MD
    write = to_markdown if is_text else document.__pydantic_serializer__.to_json
    body, digest = await aside(document.size, _hashed, write, document)
    etag = f'"{digest[:32]}"'
    if if_none_match(request, etag):
        return Response(status_code=304, headers={"ETag": etag})
    name = f"{document.incident.ref}.{query.format}"
    headers = {"ETag": etag, "Content-Disposition": f'attachment; filename="{name}"'}
    return Response(body, headers={"Content-Type": _MARKDOWN if is_text else "application/json", **headers})


@routes.api(
    "GET /api/v1/export", Access.READ, "Export incidents as NDJSON, least recently changed first",
    status=200, also=(NDJSON,),
)  # fmt: skip
async def pull(unit: Snapshot, query: ExportQuery, *, request: Request) -> Response:
    begun, after = _place(query)
    found = await _page(unit, query, after)
    lines, last = bytearray(), None
    for at, (incident, changed) in enumerate(found[: query.limit]):
        if len(lines) >= _MOST_BYTES:
            break
        document = await _document(unit, incident)
        lines += await aside(document.size, document.__pydantic_serializer__.to_json, document) + b"\n"
        last = (changed, incident.id) if at + 1 < len(found) else None
    # A change during a pull may fall behind its cursor: the next pull begins where this one began.
    as_of = format_time(begun or (await unit.fetch(_AS_OF, operation="export_as_of"))[0]["as_of"])
    cursor = None
    if last is not None:
        key = [as_of, format_time(last[0]), str(last[1])]
        cursor = encode_members("export", key, filters_hash(query))
    headers = {"Content-Type": NDJSON, "As-Of": as_of, **next_link(request, cursor)}
    return Response(bytes(lines), headers=headers)


async def _document(unit: Unit, incident: Incident, *, rev: int | None = None) -> Document:
    facts, revision = await facts_in(unit, incident.id), await revisions.read(unit, incident.id, rev)
    remarks = await _remarks(unit, incident.id)
    acted, joined = await actions.of(unit, incident.id), await links.of(unit, incident.id)

    def put_together() -> Document:
        timeline = build(facts)
        return Document(
            incident=incident,
            timeline=TimelineDocument(
                digest=timeline.digest,
                rules=timeline.rules,
                milestones=timeline.milestones,
                entries=timeline.entries,
            ),
            annotations=remarks,
            postmortem=None if revision is None else PostMortem.of(revision, facts, timeline),
            actions=acted,
            links=joined,
        )

    return await aside(facts.size, put_together)


def _hashed(write: Callable[[Document], bytes], document: Document) -> tuple[bytes, str]:
    body = write(document)
    return body, hashlib.sha256(body).hexdigest()


def _place(query: ExportQuery) -> tuple[datetime | None, Key | None]:
    if query.cursor is None:
        return None, None
    refusal = InvalidCursorError("Start again without a cursor")
    try:
        match decode_members(query.cursor, "export", filters_hash(query)):
            case [str(as_of), str(changed), str(identity)]:
                return parse_time(as_of), (parse_time(changed), UUID(identity))
            case _:
                raise refusal
    except ValueError:
        raise refusal from None
