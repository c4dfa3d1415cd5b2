"""An error meets its status in one place, and its cause stays here."""

from __future__ import annotations

from typing import Any

import pytest

from postfacta_core import errors
from postfacta_core.asgi._kernel import Kernel
from postfacta_core.asgi._problem import (
    BODY_TOO_LARGE,
    PROBLEMS,
    Problem,
    kind_members,
    problem_handler,
    problem_of,
    problem_response,
    send_problem,
)
from postfacta_core.asgi._types import Receive, Scope, Send
from postfacta_core.context import RequestContext
from postfacta_core.errors import (
    DatabaseUnavailableError,
    DeadlineExceededError,
    FailedResponseError,
    InvalidInputError,
    OutcomeTimeoutError,
    OutcomeUnknownError,
    PoolTimeoutError,
    ReadOnlyDatabaseError,
    RejectedError,
    ResilienceError,
    StoppedError,
    StreamStalledError,
)
from postfacta_core.testing import call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from tests.kit.every import every

TEAPOT = Problem(status=418, code="teapot", title="A teapot")


class Bespoke(RejectedError):  # noqa: N818 - a service's own
    """A refusal that a service adds."""


async def answer(error: BaseException, **options: Any) -> AsgiResponse:
    return await call_asgi(problem_response(error), **options)


async def test_an_error_has_its_status_and_its_name() -> None:
    cases: list[tuple[Exception, int, str, str]] = [
        (PoolTimeoutError("main"), 503, "unavailable", "pool_timeout"),
        (DatabaseUnavailableError("main"), 503, "unavailable", "database_unavailable"),
        (ReadOnlyDatabaseError("main"), 503, "unavailable", "database_unavailable"),
        (OutcomeUnknownError("main"), 503, "outcome-unknown", "database_unavailable"),
        (OutcomeTimeoutError("main"), 504, "outcome-unknown", "deadline_exceeded"),
        (InvalidInputError("main"), 422, "invalid-input", ""),
        (DeadlineExceededError("request"), 504, "deadline-exceeded", "deadline_exceeded"),
        (StreamStalledError("model"), 504, "deadline-exceeded", "deadline_exceeded"),
        (FailedResponseError("billing"), 502, "bad-gateway", "dependency_failed"),
        (Bespoke("own"), 503, "unavailable", "rejected"),
        (ResilienceError("own"), 503, "unavailable", "unavailable"),
        (ValueError("a secret"), 500, "internal", ""),
    ]
    with every() as case:
        for error, status, code, error_type in cases:
            with case(error, status, code, error_type):
                response = await answer(error)
                assert (response.status, response.json()["status"], response.json()["code"]) == (
                    status,
                    status,
                    code,
                )
                assert problem_of(error).error_type == error_type


def test_every_error_of_the_library_has_a_line_of_its_own() -> None:
    kinds = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, ResilienceError)
    }
    assert set(PROBLEMS) == kinds


def test_the_problems_of_the_library_cannot_be_changed() -> None:
    everybodys: Any = PROBLEMS
    with pytest.raises(TypeError):
        everybodys[InvalidInputError] = TEAPOT


async def test_a_foreign_error_tells_nothing_of_itself() -> None:
    response = await answer(ValueError("password=hunter2"))
    assert b"hunter2" not in response.body
    assert b"ValueError" not in response.body


async def test_a_problem_is_a_complete_rfc_9457_document_without_caching() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send_problem(scope, send, BODY_TOO_LARGE)

    asked = [("X-Request-ID", "request-1")]
    response = await call_asgi(Kernel(app), path="/files/a b?.txt", headers=asked)
    assert response.json() == {
        "type": "about:blank",
        "title": "Content Too Large",
        "status": 413,
        "detail": "The request body is too large. Send less at once",
        "instance": "/files/a%20b%3F.txt",
        "code": "too-large",
        "request_id": "request-1",
    }
    assert response.header("content-type") == "application/problem+json"
    assert response.header("content-length") == str(len(response.body))
    assert response.header("cache-control") == "no-store"


@pytest.mark.parametrize("path", ["/\udc80", '/"<script>', "/\x00\n", "/ü"])
async def test_whatever_is_in_the_path_the_instance_is_a_plain_reference(path: str) -> None:
    instance = (
        await answer(InvalidInputError("main"), path=path, scope={"raw_path": b"/"})
    ).json()["instance"]
    assert instance.isascii()
    assert not set(instance) & set('"<>\x00\n ')


async def test_without_a_context_there_is_no_request_id_and_without_advice_the_kind_is_the_detail() -> (
    None
):
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send_problem(scope, send, TEAPOT)

    members = (await call_asgi(app)).json()
    assert set(members) == {"type", "title", "status", "instance", "code", "detail"}
    assert (members["title"], members["detail"]) == ("I'm a Teapot", "A teapot")


def test_without_a_type_the_title_is_the_phrase_of_the_status() -> None:
    cases: list[Problem] = [*PROBLEMS.values(), Problem(status=799, code="odd", title="Odd")]
    with every() as case:
        for problem in cases:
            with case(problem):
                phrases = {
                    408: "Request Timeout",
                    413: "Content Too Large",
                    429: "Too Many Requests",
                    799: "Error",
                }
                phrases |= {
                    431: "Request Header Fields Too Large",
                    500: "Internal Server Error",
                    502: "Bad Gateway",
                }
                phrases |= {
                    422: "Unprocessable Content",
                    503: "Service Unavailable",
                    504: "Gateway Timeout",
                }
                assert kind_members(problem)["title"] == phrases[problem.status]


@pytest.mark.parametrize(
    ("seconds", "header"), [(None, None), (0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2")]
)
async def test_retry_after_is_whole_seconds_and_at_least_one(
    seconds: float | None, header: str | None
) -> None:
    assert (await answer(PoolTimeoutError("main", seconds))).header("retry-after") == header


async def test_head_has_the_length_and_no_body() -> None:
    response = await answer(PoolTimeoutError("main"), method="HEAD")
    assert response.body == b""
    assert int(response.header("content-length") or 0) > 50


def render_v0(problem: Problem, scope: Scope) -> tuple[str, bytes] | None:
    if not scope["path"].startswith("/v0/"):
        return None
    if scope["path"] == "/v0/broken":
        raise RuntimeError("a bug in the renderer")
    return "application/json", b'{"message":"%s"}' % problem.title.encode()


@pytest.mark.parametrize(
    ("path", "content_type", "member"),
    [
        ("/v0/x", "application/json", "message"),
        ("/v1/x", "application/problem+json", "detail"),
        ("/v0/broken", "application/problem+json", "detail"),
    ],
)
async def test_a_path_may_have_a_shape_of_its_own_and_a_broken_one_still_answers(
    path: str, content_type: str, member: str
) -> None:
    response = await call_asgi(
        problem_response(PoolTimeoutError("main", 3), render=render_v0), path=path
    )
    assert (response.status, response.header("retry-after")) == (503, "3")
    assert response.header("content-type") == content_type
    assert response.json()[member].startswith("Unavailable")


async def test_an_answer_says_why_for_metric_and_log_unless_that_is_known_better() -> None:
    for before, after in (("", "pool_timeout"), ("shed", "shed")):
        request = RequestContext("request-1", 0.0)
        request.error_type = before
        await answer(PoolTimeoutError("main"), scope={"postfacta.request": request})
        assert request.error_type == after


async def test_the_handler_for_frameworks_answers_the_same() -> None:
    handled = await call_asgi(await problem_handler(None, PoolTimeoutError("main", 2)))
    assert handled.messages == (await answer(PoolTimeoutError("main", 2))).messages


@pytest.mark.parametrize(
    "kind", [OutcomeUnknownError, StoppedError, FailedResponseError, DeadlineExceededError]
)
def test_what_may_have_begun_has_no_retry_after(kind: type[ResilienceError]) -> None:
    """A caller reads 503 with Retry-After as "nothing was done", and sends a write again."""
    assert problem_of(kind("db", 1.0)).retry_after is None
    assert problem_of(RejectedError("db", 1.0)).retry_after == 1.0
