"""Pages of lists: their models, cursors and next-page URLs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeVar, cast
from urllib.parse import urlencode
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints, TypeAdapter
from pydantic_core import to_json
from starlette.requests import Request

from postfacta_adapters import strict_json

from ..errors import InvalidCursorError
from .body import Time

T = TypeVar("T")
L = TypeVar("L", bound="Listed[Any]")
Key = tuple[datetime, UUID]  # the position of a row in a list
_CURSOR_VERSION: Final = 1
# What the members of a key are; no number of ours is beyond a bigint.
_KINDS: Final[Mapping[type, TypeAdapter[Any]]] = {
    datetime: TypeAdapter(Time),
    int: TypeAdapter(Annotated[int, Field(strict=True, ge=-(1 << 63), lt=1 << 63)]),
    **{kind: TypeAdapter[Any](kind) for kind in (UUID, str, bool)},
}


def encode_cursor(order: str, key: Sequence[object], of_filters: str) -> str:
    text = to_json([_CURSOR_VERSION, order, *key, of_filters])
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def decode_cursor(text: str, order: str, of_filters: str, *kinds: type) -> tuple[Any, ...]:
    """Return the key of such a cursor, a `Key` or members of these types; raise if it is damaged, or another's."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        version, given, *key, of = cast("list[Any]", strict_json.parse(raw))
        if (version, given, of) == (_CURSOR_VERSION, order, of_filters):
            members = zip(kinds or (datetime, UUID), key, strict=True)
            return tuple(_KINDS[kind].validate_python(it) for kind, it in members)
    except (ValueError, TypeError):
        pass
    raise InvalidCursorError("Start again without a cursor")


def filters_hash(query: BaseModel) -> str:
    """Return a hash of a query's filters, without page and order."""
    text = query.model_dump_json(exclude={"sort", "limit", "cursor"})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Listed(BaseModel, Generic[T]):
    """A page of a list, and the cursor of the next one."""

    items: Sequence[T]
    next_cursor: str | None


class Paged(BaseModel, extra="forbid", frozen=True):
    """Which page of a list."""

    limit: int = Field(50, ge=1, le=200)
    cursor: Annotated[str, StringConstraints(max_length=1000)] | None = None

    def after(self, order: str, *kinds: type) -> tuple[Any, ...] | None:
        return None if self.cursor is None else decode_cursor(self.cursor, order, filters_hash(self), *kinds)

    def cut(
        self, rows: Sequence[T], order: str, key: Callable[[T], Sequence[object]]
    ) -> tuple[Sequence[T], str | None]:
        """Return the rows of this page, and the cursor of the next one if there is one row more."""
        items = rows[: self.limit]
        is_last = len(rows) <= self.limit
        return items, None if is_last else encode_cursor(order, key(items[-1]), filters_hash(self))

    def page(self, of: type[L], rows: Sequence[T], order: str, *, key: Callable[[T], Sequence[object]]) -> L:
        items, cursor = self.cut(rows, order, key)
        return of(items=items, next_cursor=cursor)


def next_page(request: Request, cursor: str) -> str:
    others = [(name, text) for name, text in request.query_params.multi_items() if name != "cursor"]
    return f"{request.url.path}?{urlencode([*others, ('cursor', cursor)])}"


def next_link(request: Request, cursor: str | None) -> dict[str, str]:
    return {} if cursor is None else {"Link": f'<{next_page(request, cursor)}>; rel="next"'}
