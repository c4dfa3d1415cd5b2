"""Forms: whose they are, what typed texts mean, and why one comes back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlencode

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from postfacta_app.errors import (
    AppError,
    ConflictError,
    FieldError,
    ForbiddenError,
    IdempotencyMismatchError,
    InvalidFieldsError,
    MalformedError,
    NotFoundError,
)
from postfacta_app.incidents.model import IncidentKind, NewIncident, Severity, Slugs
from postfacta_app.principal import ANONYMOUS, Principal, Role
from postfacta_app.web.body import Time
from postfacta_app.web.forms import (
    Typed,
    attempt,
    csrf_token,
    formed,
    is_same_origin,
    read_form,
    read_typed_time,
)
from postfacta_core.errors import (
    CircuitOpenError,
    DeadlineExceededError,
    FailedResponseError,
    OutcomeUnknownError,
    ResilienceError,
)
from tests.kit.every import every

ADA = Principal(actor="user:1", name="Ada", role=Role.VIEWER, session_csrf=csrf_token("secret"))
MACHINE = Principal(actor="token:1", name="ci", scopes=frozenset({"incidents:write"}))
OURS = {"sec-fetch-site": "same-origin"}


def posted(content: bytes, headers: Mapping[str, str] = OURS) -> Request:
    """Make the request that brings a form."""

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": content}

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)


# Whose form it is


async def test_a_form_token_fits_its_own_session_only() -> None:
    assert await read_form(posted(urlencode({"csrf": csrf_token("secret")}).encode()), ADA) == {}
    assert csrf_token("secret") != hashlib.sha256(b"secret").hexdigest()


ORIGINS: list[tuple[dict[str, str], bool]] = [
    ({}, False),
    ({"origin": "https://app.example"}, True),
    ({"origin": "http://APP.example"}, True),
    ({"origin": "https://app.example:8443"}, False),
    ({"origin": "https://app.example.evil"}, False),
    ({"origin": "https://evil.example"}, False),
    ({"origin": "null"}, False),
    ({"origin": "https://[::1"}, False),
    ({"sec-fetch-site": "same-origin"}, True),
    ({"sec-fetch-site": "same-origin", "origin": "null"}, True),
    ({"sec-fetch-site": "same-site"}, False),
    ({"sec-fetch-site": "none"}, False),
    ({"sec-fetch-site": "cross-site", "origin": "https://app.example"}, False),
    ({"sec-fetch-site": "cross-site", "origin": "https://friend.example"}, True),
]


def test_only_a_page_of_ours_or_of_a_trusted_origin_is_the_same_origin() -> None:
    with every() as case:
        for headers, same in ORIGINS:
            with case(headers, same):
                given = {"host": "app.example", **headers}
                assert is_same_origin(given, ["https://friend.example"]) is same


def test_nothing_is_the_same_origin_as_no_host() -> None:
    assert not is_same_origin({"origin": "null"})
    assert not is_same_origin({"origin": "file://"})


@pytest.mark.parametrize(
    ("csrf", "headers"),
    [
        (csrf_token("other"), OURS),
        ("é", OURS),
        ("", OURS),
        (csrf_token("secret"), {}),
        (csrf_token("secret"), {"sec-fetch-site": "cross-site"}),
    ],
    ids=["another session's token", "no ASCII", "no token", "no origin", "another site"],
)
async def test_a_browser_may_only_send_forms_of_its_session(
    csrf: str, headers: Mapping[str, str]
) -> None:
    with pytest.raises(ForbiddenError):
        await read_form(posted(urlencode({"csrf": csrf}).encode(), headers), ADA)


@pytest.mark.parametrize("who", [MACHINE, ANONYMOUS], ids=["machine", "anonymous"])
async def test_who_has_no_session_needs_no_token_of_one(who: Principal) -> None:
    assert await read_form(posted(b"title=a", {}), who) == {"title": "a"}


# What was typed


async def test_a_form_is_read_as_it_was_sent_without_its_token() -> None:
    content = urlencode(
        {"csrf": csrf_token("secret"), "title": "ä &=+", "owner": "", "text": "one\r\ntwo"}
    ).encode()
    assert await read_form(posted(content + b"&title=%80"), ADA) == {
        "title": "\ufffd",
        "owner": "",
        "text": "one\ntwo",
    }


NO_FORMS = [b"a=%00", b"%00=a", b"key=", b"key=a%20b", b"key=" + b"x" * 65, b"a=&" * 501]


async def test_what_no_form_of_ours_sends_is_malformed() -> None:
    with every() as case:
        for content in NO_FORMS:
            with case(content[:60]), pytest.raises(MalformedError):
                await read_form(posted(content), MACHINE)


@given(st.binary(max_size=200))
async def test_any_bytes_are_a_form_or_refused(content: bytes) -> None:
    try:
        fields = await read_form(posted(content), MACHINE)
    except AppError:
        return
    assert "\0" not in str(fields)


async def test_a_new_key_is_fit_to_be_sent_and_is_never_given_twice() -> None:
    keys = {Typed().key("") for _ in range(50)}
    assert len(keys) == 50
    for key in keys:
        assert await read_form(posted(f"key={key}".encode()), MACHINE) == {"key": key}


def test_typed_texts_become_what_the_model_wants() -> None:
    made = formed(
        NewIncident,
        {
            "key": "k", "title": " a ", "description": "ten letters", "severity": "HIGH", "kind": "near_miss",
            "owner": "", "services": "search, checkout ,\n pay,", "teams": " ", "declared_at": "2026-02-07 10:04",
        },
    )  # fmt: skip
    assert (made.title, made.severity, made.kind, made.owner) == (
        " a ",
        Severity.HIGH,
        IncidentKind.NEAR_MISS,
        None,
    )
    assert (made.services, made.declared_at) == (
        ["search", "checkout", "pay"],
        datetime(2026, 2, 7, 10, 4, tzinfo=UTC),
    )


class Everything(BaseModel):
    """A model with what the others have not."""

    model_config = ConfigDict(extra="forbid")

    at: Time
    to: Time | None = None
    due: date | None = None
    done: bool = False
    more: Slugs | None = None


def test_optional_times_days_and_lists_are_read_too() -> None:
    made = formed(
        Everything,
        {
            "at": "2026-02-07 10:04",
            "to": "2026-02-07T10:04:05.5+01:00",
            "due": "2026-02-08",
            "done": "true",
            "more": ["a", "b"],
        },
    )
    assert made == Everything(
        at=datetime(2026, 2, 7, 10, 4, tzinfo=UTC),
        to=datetime(2026, 2, 7, 9, 4, 5, 500_000, tzinfo=UTC),
        due=date(2026, 2, 8),
        done=True,
        more=["a", "b"],
    )


def test_an_unreadable_time_is_one_error_and_not_missing() -> None:
    with pytest.raises(InvalidFieldsError) as refused:
        formed(Everything, {"at": "noon"})
    told = FieldError("/at", "value_error", "must be a time in UTC, such as 2026-02-07 10:04")
    assert refused.value.errors == [told]


def test_every_error_is_under_the_name_of_its_field() -> None:
    with pytest.raises(InvalidFieldsError) as refused:
        formed(NewIncident, {"title": "a", "declared_at": "noon", "services": "ok, NOT"})
    words = refused.value.by_field
    assert words.keys() == {"title", "severity", "declared_at", "services"}
    assert words["declared_at"] == "must be a time in UTC, such as 2026-02-07 10:04"
    assert words["severity"] == "is required"


ONE_TIME = [
    "2026-02-07 10:04",
    " 2026-02-07T10:04:00Z ",
    "2026-02-07 10:04 UTC",
    "2026-02-07  12:04:00 +02:00",
    "2026-02-07 10.04",
    "2026-02-07 10.04.00 UTC",
]


def test_one_time_can_be_typed_in_many_ways() -> None:
    with every() as case:
        for text in ONE_TIME:
            with case(text):
                assert read_typed_time(text) == datetime(2026, 2, 7, 10, 4, tzinfo=UTC)


AMBIGUOUS = [
    *(
        "10:04",
        "2026-02-07",
        "07.02.2026 10:04",
        "2026-02-30 10:04",
        "2026-02-07 24:00",
        "2026-02-07 1:04",
    ),
    *("0000-01-01 00:00", "0001-01-01 00:00 +01:00", "2026-02-07 10:04 CET", "٢٠٢٦-02-07 10:04"),
]


def test_what_could_mean_another_time_is_refused() -> None:
    with every() as case:
        for text in AMBIGUOUS:
            with case(text), pytest.raises(ValueError, match="must be a"):
                read_typed_time(text)


NOW = datetime(2026, 2, 7, 0, 30, 12, tzinfo=UTC)
SPOKEN = {
    "now": NOW,
    " -5m ": datetime(2026, 2, 7, 0, 25, 12, tzinfo=UTC),
    "-90s": datetime(2026, 2, 7, 0, 28, 42, tzinfo=UTC),
    "-2 h": datetime(2026, 2, 6, 22, 30, 12, tzinfo=UTC),
    "-1h30m": datetime(2026, 2, 6, 23, 0, 12, tzinfo=UTC),
    "5 min ago": datetime(2026, 2, 7, 0, 25, 12, tzinfo=UTC),
    "1 hour 30 minutes ago": datetime(2026, 2, 6, 23, 0, 12, tzinfo=UTC),
    "90 secs ago": datetime(2026, 2, 7, 0, 28, 42, tzinfo=UTC),
    "00.04": datetime(2026, 2, 7, 0, 4, tzinfo=UTC),
    "23.50.30": datetime(2026, 2, 6, 23, 50, 30, tzinfo=UTC),
    "-3D": datetime(2026, 2, 4, 0, 30, 12, tzinfo=UTC),
    "00:04": datetime(2026, 2, 7, 0, 4, tzinfo=UTC),
    "0:04:07.5": datetime(2026, 2, 7, 0, 4, 7, 500_000, tzinfo=UTC),
    "00:31": datetime(2026, 2, 7, 0, 31, tzinfo=UTC),  # A clock may be ahead.
    "23:50": datetime(2026, 2, 6, 23, 50, tzinfo=UTC),
    "today 10:04": datetime(2026, 2, 7, 10, 4, tzinfo=UTC),
    "Yesterday 22:10": datetime(2026, 2, 6, 22, 10, tzinfo=UTC),
    "2026-02-07 10:04": datetime(2026, 2, 7, 10, 4, tzinfo=UTC),
}


def test_where_the_time_is_known_it_can_be_named_in_words() -> None:
    with every() as case:
        for text, at in SPOKEN.items():
            with case(text):
                assert read_typed_time(text, NOW) == at


def test_a_clock_may_be_of_another_day() -> None:
    at = datetime(2026, 2, 5, 23, 50, tzinfo=UTC)
    assert read_typed_time("23:50", NOW, day="2026-02-05") == at
    assert read_typed_time("today 0:10", NOW, day="2026-02-05") == datetime(
        2026, 2, 7, 0, 10, tzinfo=UTC
    )
    assert read_typed_time("-5m", NOW, day="2026-02-05") == NOW - timedelta(minutes=5)


def test_words_that_name_no_time_are_refused_with_examples_of_those_that_do() -> None:
    with every() as case:
        for text in (
            "24:00",
            "10:4",
            "-5",
            "5m",
            "soon",
            "tomorrow 10:00",
            "-99999d",
            "10:04 CET",
            "-5 apples",
            "5 min",
            "-1h-30m",
            "10.04.2026",
        ):
            with case(text), pytest.raises(ValueError, match="10:04, -5m or now"):
                read_typed_time(text, NOW)


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_that_is_shown_can_be_typed_again(at: datetime) -> None:
    shown = f"{at.year:04}-{at:%m-%d %H:%M:%S.%f}"
    assert read_typed_time(shown) == at


# Why it comes back


async def _fails(error: Exception) -> Response:
    raise error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (
            InvalidFieldsError("Wrong", errors=[FieldError("/members/3", "unknown", "is no user")]),
            422,
        ),
        (ConflictError("INC-1 is archived"), 409),
        (IdempotencyMismatchError("Another"), 422),
        (CircuitOpenError("postgres", 2.5), 503),
        (OutcomeUnknownError("postgres", 1.0), 503),
        (DeadlineExceededError("request"), 504),
        (FailedResponseError("gotrue"), 502),
    ],
    ids=lambda it: type(it).__name__ if isinstance(it, Exception) else str(it),
)
async def test_a_write_that_can_be_mended_or_repeated_brings_the_form_back(
    error: Exception, status: int
) -> None:
    refusal = await attempt(_fails(error))
    assert isinstance(refusal, AppError)
    assert refusal.status == status
    assert refusal.is_spent is isinstance(error, IdempotencyMismatchError)
    if isinstance(error, AppError):
        assert refusal.by_field == ({"members": "is no user"} if error.errors else {})
    if isinstance(error, ResilienceError):
        assert refusal.headers["retry-after"] == ("3" if error.retry_after == 2.5 else "1")
        assert refusal.detail.startswith("Not saved") is isinstance(error, CircuitOpenError)


@pytest.mark.parametrize(
    "error", [NotFoundError("Gone"), ForbiddenError("No"), KeyError("bug")], ids=repr
)
async def test_errors_that_input_cannot_fix_are_raised(error: Exception) -> None:
    with pytest.raises(type(error)):
        await attempt(_fails(error))


async def test_a_write_that_works_is_answered() -> None:
    async def works() -> Response:
        return Response(status_code=303)

    done = await attempt(works())
    assert isinstance(done, Response)
    assert done.status_code == 303
