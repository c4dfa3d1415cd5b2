"""Whatever a client sends, the reader of requests answers with a value or a refusal."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated
from uuid import UUID

import pytest
from hypothesis import example, given, strategies as st
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import Message

from postfacta_app.errors import (
    AppError,
    InvalidCursorError,
    InvalidFieldsError,
    MalformedError,
    UnsupportedMediaTypeError,
)
from postfacta_app.web import body
from tests.kit.every import every


def a_request(*headers: tuple[str, str], query: str = "", content: bytes = b"") -> Request:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]

    async def receive() -> Message:
        return {"type": "http.request", "body": content}

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "headers": raw,
        "query_string": query.encode(),
    }
    return Request(scope, receive)


class Reading(BaseModel):
    """A body with a field of each sort."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=2)]
    at: body.Time | None = None
    id: UUID | None = None
    parts: list[int] = []


class Filters(BaseModel):
    """Parameters of each sort."""

    tag: list[str] | None = None
    start: body.Time | None = Field(None, alias="from")
    limit: Annotated[int, Field(ge=1, le=200)] = 50


def refused(read: Callable[[], object]) -> AppError | None:
    try:
        read()
    except AppError as refusal:
        return refusal
    return None


@given(st.binary())
def test_random_bytes_raise_nothing_but_an_app_error(content: bytes) -> None:
    refusal = refused(lambda: body.parse(Reading, body.parse_json(content)))
    assert refusal is None or refusal.status in {400, 422}


def test_json_that_is_not_strict_is_malformed_in_the_words_of_the_parser() -> None:
    with pytest.raises(MalformedError) as caught:
        body.parse_json(b"[NaN]")
    assert (caught.value.status, caught.value.detail) == (400, "NaN is not JSON")


async def test_at_most_a_hundred_errors_are_listed() -> None:
    content = json.dumps({f"f{n}": n for n in range(40_000)}).encode()
    with pytest.raises(InvalidFieldsError) as caught:
        await body.read_body(
            a_request(("Content-Type", "application/json"), content=content), Reading
        )
    assert len(caught.value.errors) == 100


def test_each_broken_rule_has_a_pointer_a_code_and_no_echo_of_the_input() -> None:
    secret = "hunter2"  # noqa: S105 - it stands for one
    with pytest.raises(InvalidFieldsError) as caught:
        body.parse(
            Reading, {"name": "x", "id": secret, "parts": [1, secret], "a/b~": secret, "at": 5}
        )
    errors = {error.pointer: error for error in caught.value.errors}
    assert set(errors) == {"/name", "/id", "/parts/1", "/a~1b~0", "/at"}
    assert (errors["/a~1b~0"].code, errors["/a~1b~0"].message) == (
        "unknown",
        "is not a known field",
    )
    assert errors["/name"].message == "must have at least 2 characters"
    assert errors["/at"].message.startswith("must be a time")
    assert not any(
        secret in error.message or "pydantic" in error.message for error in caught.value.errors
    )


def test_a_value_that_is_no_object_points_to_the_whole() -> None:
    with pytest.raises(InvalidFieldsError) as caught:
        body.parse(Reading, [])
    assert [error.pointer for error in caught.value.errors] == [""]


JSON_TYPES = ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"]


async def test_a_body_that_claims_to_be_json_is_read() -> None:
    with every() as case:
        for media_type in JSON_TYPES:
            with case(media_type):
                request = a_request(("Content-Type", media_type), content=b'{"name":"abc"}')
                assert (await body.read_body(request, Reading)).name == "abc"


OTHER_TYPES = ["", "text/plain", "application/jsonp", "text/json", "application/xjson"]


async def test_a_body_that_claims_to_be_something_else_is_refused() -> None:
    with every() as case:
        for media_type in OTHER_TYPES:
            with case(media_type), pytest.raises(UnsupportedMediaTypeError):
                await body.read_body(
                    a_request(("Content-Type", media_type), content=b'{"name":"abc"}'), Reading
                )


def test_lists_take_a_parameter_as_often_as_it_comes() -> None:
    found = body.read_query(
        QueryParams("tag=a&tag=b&limit=7&from=2026-02-07T10:00:00%2B09:00"), Filters
    )
    assert found.tag == ["a", "b"]
    assert found.limit == 7
    assert found.start == datetime(2026, 2, 7, 1, tzinfo=UTC)


WRONG_QUERIES = [
    ("tags=a", "?tags"),
    ("start=2026-02-07T10:00:00Z", "?start"),
    ("limit=1&limit=2", "?limit"),
    ("limit=0", "?limit"),
    ("limit=", "?limit"),
    ("from=yesterday", "?from"),
    ("tag=a%00", "?tag"),
]


def test_an_unknown_repeated_or_invalid_parameter_is_refused() -> None:
    with every() as case:
        for query, pointer in WRONG_QUERIES:
            with case(query, pointer):
                with pytest.raises(MalformedError) as caught:
                    body.read_query(QueryParams(query), Filters)
                assert [error.pointer for error in caught.value.errors] == [pointer]


@given(st.datetimes(timezones=st.just(UTC)), st.uuids(), st.text("abc-_", max_size=9))
def test_a_cursor_comes_back_as_it_was(at: datetime, identity: UUID, sort: str) -> None:
    text = body.encode_cursor(sort, (at, identity), "hash")
    assert body.decode_cursor(text, sort, "hash") == (at, identity)
    for other in ((text, sort + "x", "hash"), (text, sort, "other")):
        with pytest.raises(InvalidCursorError):
            body.decode_cursor(*other)


def a_cursor(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


IDENTITY = "11111111-1111-4111-8111-111111111111"


@given(st.text())
@example("=")
@example("ä")
@example(a_cursor([2, "s", "2026-02-07T10:00:00Z", IDENTITY, "h"]))
@example(a_cursor([1, "s", 5, IDENTITY, "h"]))
@example(a_cursor([1, "s", "2026-02-07T10:00:00Z", [IDENTITY], "h"]))
@example(a_cursor([1, "s", "0000-02-07T10:00:00Z", IDENTITY, "h"]))
@example(a_cursor([1, "s", "2026-02-07T10:00:00Z", IDENTITY]))
@example(a_cursor({}))
def test_a_damaged_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidCursorError):
        body.decode_cursor(text, "s", "h")


NORMAL_FORMS = [
    ("2026-02-07T10:00:00+09:00", "2026-02-07T10:00:00+09:00"),
    ("2026-02-07T10:00:00.123456789Z", "2026-02-07T10:00:00.123456789Z"),
    ("2026-02-07T10:00:00.12345678999Z", "2026-02-07T10:00:00.123456789Z"),
    ("2026-02-07T10:00:00.1200Z", "2026-02-07T10:00:00.12Z"),
    ("2026-02-07T10:00:00.000+00:00", "2026-02-07T10:00:00Z"),
    ("2026-02-07T10:00:00-00:00", "2026-02-07T10:00:00Z"),
    ("2024-02-29T23:59:59-23:59", "2024-02-29T23:59:59-23:59"),
    ("0000-02-29T00:00:00Z", "0000-02-29T00:00:00Z"),
]


def test_a_time_is_echoed_in_its_normal_form() -> None:
    with every() as case:
        for written, echo in NORMAL_FORMS:
            with case(written, echo):
                assert body.read_moment(written)[0] == echo


NO_TIMES = [
    "",
    "2026-02-07",
    "2026-02-07 10:00:00Z",
    "2026-02-07T10:00:00",
    "2026-02-07t10:00:00Z",
    "2026-02-07T10:00:00z",
    "2026-02-07T10:00Z",
    "2026-02-07T24:00:00Z",
    "2026-02-07T23:59:60Z",
    "2026-02-07T10:00:00,5Z",
    "2026-02-07T10:00:00.Z",
    "2026-02-07T10:00:00+0900",
    "2026-02-07T10:00:00+24:00",
    "2026-02-07T10:00:00+09:60",
    "2026-02-30T10:00:00Z",
    "2025-02-29T10:00:00Z",
    "2026-00-10T10:00:00Z",
    "2026-01-00T10:00:00Z",
    "2026-13-10T10:00:00Z",
    "2026-02-07T10:00:00Z\n",
    "٢٠٢٦-02-07T10:00:00Z",
]


def test_any_other_way_to_write_a_time_is_refused() -> None:
    with every() as case:
        for written in NO_TIMES:
            with case(written), pytest.raises(ValueError, match="must be"):
                body.read_moment(written)


NO_INSTANTS = ["0000-06-01T00:00:00Z", "0001-01-01T00:30:00+01:00", "9999-12-31T23:30:00-01:00"]


def test_a_time_outside_the_years_1_to_9999_is_echoed_but_is_no_instant() -> None:
    with every() as case:
        for written in NO_INSTANTS:
            with case(written):
                assert body.read_moment(written) == (written, None)
                with pytest.raises(ValueError, match="years 1 to 9999"):
                    body.parse_time(written)


@given(
    st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)),  # noqa: DTZ001 - bounds are naive
    st.integers(-1439, 1439),
)
def test_an_instant_survives_every_offset(local: datetime, minutes: int) -> None:
    at = local.replace(tzinfo=UTC)
    sign, rest = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
    shifted = (local + timedelta(minutes=minutes)).isoformat()
    assert body.parse_time(f"{shifted}{sign}{rest[0]:02}:{rest[1]:02}") == at
    assert body.parse_time(body.format_time(at)) == at
    assert body.format_time(
        at.astimezone(timezone(timedelta(hours=5, minutes=30)))
    ) == body.format_time(at)


def test_times_are_answered_in_utc_with_six_digits() -> None:
    reading = Reading(name="abc", at=body.parse_time("2026-02-07T10:00:00.1234567+09:00"))
    assert json.loads(reading.model_dump_json())["at"] == "2026-02-07T01:00:00.123456Z"


@given(st.text() | st.text("0123456789-:TZ+.", max_size=30))
def test_random_times_raise_nothing_but_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        body.read_moment(text)
