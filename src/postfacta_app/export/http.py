"""The v1 API of exports: read the request, build documents, respond."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from ..aside import aside
from ..db import Transactions, Unit
from ..errors import InvalidCursorError
from ..incidents.http import parse_ref
from ..principal import Principal
from ..web.body import format_time, if_none_match, parse_time, read_query
from ..web.paging import decode_members, encode_members, filters_hash, next_link
from . import service
from .markdown import to_markdown
from .model import Document, ExportFormat, ExportQuery, OneQuery

__all__ = ["NDJSON", "ExportHttp"]

NDJSON = "application/x-ndjson"
_MARKDOWN = "text/markdown; charset=utf-8"


class ExportHttp:
    """The handlers of exports.

    Args:
        transactions: Gives each response one snapshot of the database.
        needs: The stores that a document is built from.
    """

    def __init__(self, transactions: Transactions, needs: service.Needs) -> None:
        self._transactions = transactions
        self._needs = needs

    async def one(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/incidents/{ref}/export."""
        ref, query = parse_ref(request), read_query(request, OneQuery)

        async def look(unit: Unit) -> Document:
            return await service.one(unit, self._needs, ref, rev=query.rev)

        document = await self._transactions.read(principal, look)
        is_text = query.format is ExportFormat.MD
        kind = _MARKDOWN if is_text else "application/json"
        write = to_markdown if is_text else document.__pydantic_serializer__.to_json
        body, digest = await aside(document.size, _hashed, write, document)
        etag = f'"{digest[:32]}"'
        if if_none_match(request, etag):
            return Response(status_code=304, headers={"ETag": etag})
        name = f"{document.incident.ref}.{query.format}"
        headers = {"ETag": etag, "Content-Disposition": f'attachment; filename="{name}"'}
        return Response(body, headers={"Content-Type": kind, **headers})

    async def all(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/export."""
        query = read_query(request, ExportQuery)
        begun, after = _place(query)

        async def look(unit: Unit) -> service.Pulled:
            return await service.pull(unit, self._needs, query, after=after, limit=query.limit)

        pulled = await self._transactions.read(principal, look)
        # A change during a pull may fall behind its cursor: the next pull begins where this one began.
        as_of, cursor = format_time(begun or pulled.as_of), None
        if pulled.last is not None:
            changed, identity = pulled.last
            key = [as_of, format_time(changed), str(identity)]
            cursor = encode_members("export", key, filters_hash(query))
        headers = {"Content-Type": NDJSON, "As-Of": as_of, **next_link(request, cursor)}
        return Response(pulled.lines, headers=headers)


def _hashed(write: Callable[[Document], bytes], document: Document) -> tuple[bytes, str]:
    body = write(document)
    return body, hashlib.sha256(body).hexdigest()


def _place(query: ExportQuery) -> tuple[datetime | None, tuple[datetime, UUID] | None]:
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
