"""Cursors and next-page URLs of lists."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Final, TypeVar, cast
from urllib.parse import urlencode
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.requests import Request

from ..errors import InvalidCursorError, MalformedError
from .body import format_time, parse_json, parse_time

__all__ = [
    "Key", "Paged", "decode_cursor", "decode_members", "encode_cursor", "encode_members", "filters_hash",
    "next_link", "next_page",
]  # fmt: skip

T = TypeVar("T")
Key = tuple[datetime, UUID]
"""The position of a row in a list."""
_CURSOR_VERSION: Final = 1


def encode_cursor(sort: str, key: Key, of_filters: str) -> str:
    return encode_members(sort, [format_time(key[0]), str(key[1])], of_filters)


def decode_cursor(text: str, sort: str, of_filters: str) -> Key:
    try:
        match decode_members(text, sort, of_filters):
            case [str(time), str(identity)]:
                return parse_time(time), UUID(identity)
            case _:
                raise _refusal()
    except ValueError:
        raise _refusal() from None


def encode_members(sort: str, key: Sequence[object], of_filters: str) -> str:
    text = json.dumps([_CURSOR_VERSION, sort, *key, of_filters], ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_members(text: str, sort: str, of_filters: str) -> Sequence[object]:
    """Return the key of such a cursor; the caller must check the types of its members.

    Raises:
        InvalidCursorError: If it is damaged, or was issued for another order or other filters.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        members = parse_json(raw)
    except (ValueError, MalformedError):
        raise _refusal() from None
    if not isinstance(members, list):
        raise _refusal()
    match cast("list[object]", members):
        case [int(version), str(given_sort), *key, str(given_hash)]:
            if (version, given_sort, given_hash) == (_CURSOR_VERSION, sort, of_filters):
                return key
        case _:
            pass
    raise _refusal()


def _refusal() -> InvalidCursorError:
    return InvalidCursorError("Start again without a cursor")


def filters_hash(query: BaseModel) -> str:
    """Return a hash of a query's filters, without page and order."""
    text = query.model_dump_json(exclude={"sort", "limit", "cursor"})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Paged(BaseModel):
    """Which page of a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(50, ge=1, le=200)
    cursor: Annotated[str, StringConstraints(max_length=1000)] | None = None

    def after(self, order: str) -> Key | None:
        """Return the position that the cursor holds.

        Raises:
            InvalidCursorError: If it is damaged, or was issued for another order or other filters.
        """
        return None if self.cursor is None else decode_cursor(self.cursor, order, filters_hash(self))

    def cut(self, rows: Sequence[T], order: str, key: Callable[[T], Key]) -> tuple[Sequence[T], str | None]:
        """Return the rows of this page, and the cursor of the next one if there is one row more."""
        items = rows[: self.limit]
        is_last = len(rows) <= self.limit
        return items, None if is_last else encode_cursor(order, key(items[-1]), filters_hash(self))


def next_page(request: Request, cursor: str) -> str:
    others = [(name, text) for name, text in request.query_params.multi_items() if name != "cursor"]
    return f"{request.url.path}?{urlencode([*others, ('cursor', cursor)])}"


def next_link(request: Request, cursor: str | None) -> dict[str, str]:
    return {} if cursor is None else {"Link": f'<{next_page(request, cursor)}>; rel="next"'}
