"""Parse requests: JSON, parameters, preconditions, idempotency keys, times.

Any input results in a value or an `AppError`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, PlainSerializer, ValidationError
from pydantic_core import ErrorDetails
from starlette.datastructures import QueryParams
from starlette.requests import Request

from ..aside import aside
from ..errors import (
    FieldError,
    InvalidFieldsError,
    MalformedError,
    PreconditionFailedError,
    PreconditionRequiredError,
    UnsupportedMediaTypeError,
)

M = TypeVar("M", bound=BaseModel)

MOST_PARTS: Final = 100_000
"""The most commas and opening brackets of a JSON text: each is a value of about 100 bytes in memory."""
_CONTAINERS: Final = (dict, list)
_MOST_ERRORS: Final = 100  # Errors listed in one response.
_DEPTH: Final = 100  # far above our models, far below Python's recursion limit
# What a text may hold only by an escape, and must not: U+0000, and halves of surrogate pairs.
_ODD: Final = re.compile(rb"\\u(?:0000|d[89a-f])", re.IGNORECASE)
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_JSON_TYPE: Final = re.compile(r"application/([a-z0-9.+-]+\+)?json", re.IGNORECASE)


def parse_json(body: bytes) -> object:
    """Parse a JSON text: UTF-8 without a byte order mark, one value, finite numbers, no NUL, at most 100,000 parts.

    Lone surrogates become U+FFFD, since they cannot be encoded. A repeated key counts where it is last.
    """
    if _parts(body) > MOST_PARTS:
        raise MalformedError(f"more than {MOST_PARTS:,} commas and brackets")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedError("the text is not UTF-8") from None
    if not text.strip(" \t\r\n"):
        raise MalformedError("EOF")
    try:
        value = json.loads(text, parse_constant=_constant, parse_float=_finite, object_pairs_hook=_object)
        _check_depth(value, 0)
    except json.JSONDecodeError as error:
        raise MalformedError(f"not JSON at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise MalformedError("nested too deeply") from None
    except ValueError:  # int() rejects numbers of thousands of digits
        raise MalformedError("a number is too large") from None
    return _clean(value) if _ODD.search(body) else value


def _parts(body: bytes) -> int:
    """Bound the commas and opening brackets before parsing; those in strings only count if there are too many."""
    count = _commas(body)
    if count <= MOST_PARTS:
        return count
    body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Each string follows one of them, or a key that does: so there are less than twice as many.
    return count if body.count(b'"') > 5 * MOST_PARTS else _commas(b"".join(body.split(b'"')[::2]))


def _commas(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _constant(name: str) -> object:
    raise MalformedError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise MalformedError("a number is too large")
    return number


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        members.clear()
        for key, value in pairs:
            members.pop(key, None)
            members[key] = value
    return members


def _check_depth(value: object, depth: int) -> None:
    if isinstance(value, dict):
        value = list(cast("dict[str, object]", value).values())
    if isinstance(value, list):
        if depth == _DEPTH:
            raise MalformedError("nested too deeply")
        for item in cast("list[object]", value):
            if type(item) in _CONTAINERS:
                _check_depth(item, depth + 1)


def _clean(value: object) -> object:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return [_clean(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        return {_text(key): _clean(item) for key, item in cast("dict[str, object]", value).items()}
    return value


def _text(text: str) -> str:
    if "\0" in text:
        raise MalformedError("a text contains U+0000")
    return _LONE_SURROGATE.sub("\ufffd", text)


async def read_json(request: Request) -> object:
    body = await request.body()
    return await aside(len(body), parse_json, body)


async def read_body(request: Request, model: type[M]) -> M:
    given = [text.partition(";")[0].strip() for text in request.headers.getlist("content-type")]
    if len(given) != 1 or not _JSON_TYPE.fullmatch(given[0]):
        raise UnsupportedMediaTypeError("Send JSON, with Content-Type: application/json")
    body = await request.body()
    return await aside(len(body), lambda: parse(model, parse_json(body)))


def parse(model: type[M], value: object) -> M:
    """Validate a JSON value against a model; raise if fields are invalid, without the input."""
    try:
        return model.model_validate(value)
    except ValidationError as invalid:
        errors = [_field_error(error, _pointer(error["loc"])) for error in _details(invalid)]
        raise InvalidFieldsError("Correct the fields named in errors", errors=errors) from None


def _details(invalid: ValidationError) -> list[ErrorDetails]:
    return invalid.errors(include_url=False, include_context=False, include_input=False)[:_MOST_ERRORS]


def _pointer(location: tuple[int | str, ...]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


_WORDS: Final = {
    "missing": ("required", "is required"),
    "extra_forbidden": ("unknown", "is not a known field"),
    "uuid_parsing": ("uuid_parsing", "must be a UUID"),  # the original message quotes the input
}


def _field_error(error: ErrorDetails, pointer: str) -> FieldError:
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "must")
    code, message = _WORDS.get(error["type"], (error["type"], message.replace("String should", "must")))
    return FieldError(pointer, code, message)


# Parameters


def read_query(query: QueryParams, model: type[M], *, is_page: bool = False) -> M:
    """Parse the query as a model: list parameters may repeat, others may not.

    Unknown ones are refused: an ignored filter would return wrong results. A page ignores what trackers add.
    """
    lists = {field.alias or name: _is_list(field.annotation) for name, field in model.model_fields.items()}
    values: dict[str, object] = {}
    errors: list[FieldError] = []
    asked = [name for name in dict.fromkeys(query) if name in lists or not is_page]
    for name in asked:
        given = query.getlist(name)
        if name not in lists:
            errors.append(FieldError(f"?{name}", "unknown", "is not a known parameter"))
        elif any("\0" in text for text in given):
            errors.append(FieldError(f"?{name}", "nul", "contains U+0000"))
        elif lists[name]:
            values[name] = given
        elif len(given) > 1:
            errors.append(FieldError(f"?{name}", "repeated", "may be given once"))
        else:
            values[name] = given[0]
    try:
        if not errors:
            return model.model_validate(values)
    except ValidationError as invalid:
        errors = [
            _field_error(error, f"?{error['loc'][0]}" if error["loc"] else "?") for error in _details(invalid)
        ]
    raise MalformedError("Correct the parameters named in errors", errors=errors)


def _is_list(annotation: object) -> bool:
    origin = get_origin(annotation)
    if origin in {list, tuple, set, frozenset}:
        return True
    return any(_is_list(part) for part in get_args(annotation)) if origin is not None else False


# Preconditions and keys

_ETAG: Final = re.compile(r'\s*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')


def if_match(request: Request, current: str) -> None:
    """Raise unless `If-Match` names `current`, the stored version's strong ETag, quotes included."""
    given = request.headers.getlist("if-match")
    if not given:
        raise PreconditionRequiredError("Send If-Match with the ETag of the version you change")
    named = list(_etags("If-Match", given))
    if "*" not in named and current not in named:
        raise PreconditionFailedError("It has changed: read it again, then retry", headers={"ETag": current})


def if_none_match(request: Request, etag: str) -> bool:
    """Return whether the client has this version, so that the response is 304; compares weakly."""
    given = request.headers.getlist("if-none-match")
    if not given:
        return False
    known = {tag.removeprefix("W/") for tag in _etags("If-None-Match", given)}
    return "*" in known or etag.removeprefix("W/") in known


def _etags(header: str, given: Sequence[str]) -> Iterator[str]:
    text = ", ".join(given)
    if text.strip() == "*":
        yield "*"
        return
    at = 0
    while at < len(text) or not text:
        found = _ETAG.match(text, at)
        if found is None:
            raise MalformedError(f'{header}: an entity tag must be in double quotes, as in "inc-3"')
        yield found[1]
        at = found.end()


_BARE_KEY: Final = re.compile(r"[\x21\x23-\x7e][\x21-\x7e]*")
_QUOTED_KEY: Final = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_LONGEST_KEY: Final = 255


def idempotency_key(request: Request) -> str | None:
    """Return the `Idempotency-Key`, quoted as a structured string or bare; None if absent."""
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    text = given[0].strip()
    if (quoted := _QUOTED_KEY.fullmatch(text)) is not None:
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    else:
        key = text if _BARE_KEY.fullmatch(text) else ""
    if len(given) > 1 or not 1 <= len(key) <= _LONGEST_KEY:
        raise MalformedError("Idempotency-Key must be 1 to 255 visible ASCII characters, given once")
    return key


# Times

_RFC3339: Final = re.compile(
    r"(?P<year>\d{4})(?P<rest>-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d)(?:\.(?P<fraction>\d+))?"
    r"(?P<zone>Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_NANO: Final = 9


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as written, and as an instant."""

    text: str  # RFC 3339 with the original offset, up to nine fractional digits, without trailing zeros
    instant: datetime | None  # in UTC, cut to microseconds; None outside the years 1 to 9999


def read_moment(text: str) -> Moment:
    """Parse RFC 3339 strictly: an offset, an existing day, no leap second; raise `ValueError` otherwise."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise ValueError("must be a time with an offset, such as 2026-02-07T10:00:00Z")
    year, rest, fraction, zone = (
        found["year"],
        found["rest"],
        (found["fraction"] or "")[:_NANO],
        found["zone"],
    )
    if zone in {"+00:00", "-00:00"}:
        zone = "Z"
    try:
        # Python has no year 0; the year 400 has the same calendar.
        at = datetime.fromisoformat(f"{'0400' if year == '0000' else year}{rest}.{fraction:0<6.6}{zone}")
    except ValueError:
        raise ValueError("must be a day that exists") from None
    try:
        instant = None if year == "0000" else at.astimezone(UTC)
    except OverflowError:
        instant = None
    digits = f".{fraction}".rstrip("0").rstrip(".")
    return Moment(f"{year}{rest}{digits}{zone}", instant)


def parse_time(text: str) -> datetime:
    """Parse RFC 3339 as an instant in UTC, cut to microseconds, within the years 1 to 9999; else raise."""
    instant = read_moment(text).instant
    if instant is None:
        raise ValueError("must be within the years 1 to 9999")
    return instant


def format_time(at: datetime) -> str:
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    return at.isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"


def _time_field(value: object) -> object:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        raise ValueError("must be a time with an offset, such as 2026-02-07T10:00:00Z")  # noqa: TRY004 - pydantic expects it
    return parse_time(value)


Time = Annotated[datetime, BeforeValidator(_time_field), PlainSerializer(format_time, when_used="json")]
"""A field of a model that holds an instant."""


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""The last annotation of a strict `int` field: JSON has one number type, so 1.0 is an integer too."""
