"""Parse the JSON, parameters, times and lists of requests.

Any input results in a value or an `AppError`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Final, Generic, TypeVar, cast, get_args, get_origin
from urllib.parse import urlencode
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer, TypeAdapter, ValidationInfo
from pydantic_core import ValidationError, to_json
from starlette.datastructures import QueryParams
from starlette.requests import Request

from postfacta_web import strict_json

from .. import errors
from ..aside import aside

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

_MOST_ERRORS: Final = 100  # Errors listed in one response.
_JSON_TYPE: Final = re.compile(r"application/([a-z0-9.+-]+\+)?json", re.IGNORECASE)


def parse_json(body: bytes) -> object:
    """Parse strict JSON; raise `MalformedError` if it is none."""
    try:
        return strict_json.parse(body)
    except strict_json.MalformedJsonError as error:
        raise errors.MalformedError(str(error)) from None


async def read_json(request: Request) -> object:
    body = await request.body()
    return await aside(len(body), parse_json, body)


async def read_body(request: Request, model: type[M]) -> M:
    media_types = [
        text.partition(";")[0].strip() for text in request.headers.getlist("content-type")
    ]
    if len(media_types) != 1 or not _JSON_TYPE.fullmatch(media_types[0]):
        raise errors.UnsupportedMediaTypeError("Send JSON, with Content-Type: application/json")
    body = await request.body()
    return await aside(len(body), lambda: parse(model, parse_json(body)))


def parse(model: type[M], value: object, read_time: Callable[[str], datetime] | None = None) -> M:
    """Validate a JSON value against a model; raise if fields are invalid, without the input."""
    try:
        return model.model_validate(value, context=read_time)
    except ValidationError as invalid:
        field_errors = _field_errors(invalid)
        raise errors.InvalidFieldsError(
            "Correct the fields named in errors", errors=field_errors
        ) from None


_WORDS: Final = {
    "missing": ("required", "is required"),
    "extra_forbidden": ("unknown", "is not a known field"),
    "uuid_parsing": ("uuid_parsing", "must be a UUID"),  # the original message quotes the input
}


def _field_errors(invalid: ValidationError) -> list[errors.FieldError]:
    field_errors: list[errors.FieldError] = []
    details = invalid.errors(include_url=False, include_context=False, include_input=False)
    for error in details[:_MOST_ERRORS]:
        pointer = "".join(
            "/" + str(part).replace("~", "~0").replace("/", "~1") for part in error["loc"]
        )
        message = error["msg"].removeprefix("Value error, ").replace("Input should", "must")
        default = (error["type"], message.replace("String should", "must"))
        code, message = _WORDS.get(error["type"], default)
        field_errors.append(errors.FieldError(pointer, code, message))
    return field_errors


# Parameters


def read_query(query: QueryParams, model: type[M], *, is_page: bool = False) -> M:
    """Parse the query as a model: list parameters may repeat, others may not.

    Unknown ones are refused: an ignored filter would return wrong results. A page ignores what
    trackers add.
    """
    lists = _lists(model)
    values: dict[str, object] = {}
    refusals: list[errors.FieldError] = []
    names = [name for name in dict.fromkeys(query) if name in lists or not is_page]
    for name in names:
        texts = query.getlist(name)
        if name not in lists:
            refusals.append(errors.FieldError(f"?{name}", "unknown", "is not a known parameter"))
        elif any("\0" in text for text in texts):
            refusals.append(errors.FieldError(f"?{name}", "nul", "contains U+0000"))
        elif lists[name]:
            values[name] = texts
        elif len(texts) > 1:
            refusals.append(errors.FieldError(f"?{name}", "repeated", "may be given once"))
        else:
            values[name] = texts[0]
    try:
        if not refusals:
            return model.model_validate(values)
    except ValidationError as invalid:
        refusals = [
            replace(error, pointer=f"?{error.pointer[1:].partition('/')[0]}")
            for error in _field_errors(invalid)
        ]
    raise errors.MalformedError("Correct the parameters named in errors", errors=refusals)


@cache
def _lists(model: type[BaseModel]) -> Mapping[str, bool]:
    """Return the names of a model's fields, and whether each is a list."""
    return {
        field.alias or name: list in kinds(field.annotation)
        for name, field in model.model_fields.items()
    }


def kinds(annotation: object) -> Iterator[object]:
    """Yield all types of which an annotation is made."""
    yield annotation
    yield get_origin(annotation)
    for part in get_args(annotation):
        yield from kinds(part)


# Times

_RFC3339: Final = re.compile(
    r"(\d{4})(-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d)"  # the year; the rest to the second
    r"(?:\.(\d+))?(Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)",  # a fraction; the offset
    re.ASCII,
)


def read_moment(text: str) -> tuple[str, datetime | None]:
    """Parse RFC 3339 strictly: an offset, an existing day, no leap second.

    Raise `ValueError` otherwise.

    Return it with its offset and up to nine fractional digits, without trailing zeros, and as an
    instant in UTC, cut to microseconds: None outside the years 1 to 9999.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("must be a time with an offset, such as 2026-02-07T10:00:00Z")
    year, date_and_time, fraction, offset = match.groups("")
    offset = "Z" if offset[1:] == "00:00" else offset
    # Python has no year 0; the year 400 has the same calendar.
    python_year = "0400" if year == "0000" else year
    try:
        at = datetime.fromisoformat(f"{python_year}{date_and_time}.{fraction:0<6.6}{offset}")
        instant = None if year == "0000" else at.astimezone(UTC)
    except ValueError:
        raise ValueError("must be a day that exists") from None
    except OverflowError:
        instant = None
    digits = f".{fraction[:9]}".rstrip("0").rstrip(".")
    return f"{year}{date_and_time}{digits}{offset}", instant


def parse_time(text: str) -> datetime:
    """Parse RFC 3339 as an instant in UTC, cut to microseconds, within the years 1 to 9999.

    Else raise.
    """
    _, instant = read_moment(text)
    if instant is None:
        raise ValueError("must be within the years 1 to 9999")
    return instant


def format_time(at: datetime) -> str:
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    return at.isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"


def _time_field(value: object, info: ValidationInfo) -> datetime:
    if isinstance(value, datetime):
        return value
    read = info.context or parse_time
    return read(str(value))


Time = Annotated[
    datetime, BeforeValidator(_time_field), PlainSerializer(format_time, when_used="json")
]
"""A field of a model that holds an instant."""


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""The last annotation of a strict `int` field.

JSON has one number type, so 1.0 is an integer too.
"""


# Pages of lists

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
    """Return the key of such a cursor, a `Key` or members of these types.

    Raise if it is damaged, or another's.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        version, order_in_cursor, *key, filters = cast("list[Any]", strict_json.parse(raw))
        if (version, order_in_cursor, filters) == (_CURSOR_VERSION, order, of_filters):
            members = zip(kinds or (datetime, UUID), key, strict=True)
            return tuple(_KINDS[kind].validate_python(member) for kind, member in members)
    except (ValueError, TypeError):
        pass
    raise errors.InvalidCursorError("Start again without a cursor")


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
    cursor: Annotated[str, Field(max_length=1000)] | None = None

    def after(self, order: str, *kinds: type) -> tuple[Any, ...] | None:
        """Return the key after which this page begins; None for the first page."""
        if self.cursor is None:
            return None
        return decode_cursor(self.cursor, order, filters_hash(self), *kinds)

    def cut(
        self, rows: Sequence[T], order: str, key: Callable[[T], Sequence[object]]
    ) -> tuple[Sequence[T], str | None]:
        """Return the rows of this page, and the cursor of the next one if there is one row more."""
        items = rows[: self.limit]
        if len(rows) <= self.limit:
            return items, None
        return items, encode_cursor(order, key(items[-1]), filters_hash(self))

    def page(
        self,
        list_type: type[L],
        rows: Sequence[T],
        order: str,
        *,
        key: Callable[[T], Sequence[object]],
    ) -> L:
        items, cursor = self.cut(rows, order, key)
        return list_type(items=items, next_cursor=cursor)


def next_page(request: Request, cursor: str) -> str:
    parameters = [
        (name, text) for name, text in request.query_params.multi_items() if name != "cursor"
    ]
    return f"{request.url.path}?{urlencode([*parameters, ('cursor', cursor)])}"


def next_link(request: Request, cursor: str | None) -> dict[str, str]:
    return {} if cursor is None else {"Link": f'<{next_page(request, cursor)}>; rel="next"'}
