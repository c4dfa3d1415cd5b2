"""Every error is answered in the shape of its path, and none tells its cause."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from itertools import product
from typing import cast

import httpx2
from hypothesis import example, given, strategies as st
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from postfacta_app import errors
from postfacta_app.errors import AppError, FieldError, InvalidFieldsError, PreconditionFailedError
from postfacta_app.problems import Problems, explain, redirect_target, render
from postfacta_app.web.render import Pages, encode
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.errors import (
    DatabaseUnavailableError,
    DeadlineExceededError,
    OutcomeUnknownError,
    PoolTimeoutError,
    ReadOnlyDatabaseError,
)
from postfacta_web.conditional import ConditionError
from tests.app.v0_app import a_client
from tests.kit.every import every

CAUSE = "select * from incidents"
PATHS = (
    "/api/v1/incidents",
    "/api/v0/incidents",
    "/api/v0/incidents/start",
    "/healthz",
    "/incidents",
)
Endpoint = Callable[[Request], Awaitable[Response]]


def raising(error: Exception) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        raise error

    return endpoint


async def answer(
    error: Exception,
    path: str,
    *,
    problems: Problems | None = None,
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
) -> httpx2.Response:
    app = Starlette(
        routes=[Route(each, raising(error)) for each in PATHS],
        exception_handlers=(problems or Problems()).handlers,
    )
    app.router.redirect_slashes = False
    token = bind_request(RequestContext("0123456789abcdef", 0.0))
    try:
        async with a_client(app) as client:
            return await client.request(method, path, headers=headers)
    finally:
        release_request(token)


def every_app_error() -> list[AppError]:
    return [
        kind("Do this instead")
        for kind in AppError.__subclasses__()
        if kind.__module__ == errors.__name__
    ]


CORE: list[tuple[Exception, int, str, str | None]] = [
    (PoolTimeoutError("pool", 0.2), 503, "unavailable", "1"),
    (DatabaseUnavailableError("database", 1.2), 503, "unavailable", "2"),
    (ReadOnlyDatabaseError("database"), 503, "unavailable", None),
    (OutcomeUnknownError("database", 3.0), 503, "outcome-unknown", None),
    (DeadlineExceededError("request"), 504, "deadline-exceeded", None),
    (OSError(CAUSE), 500, "internal", None),
]


async def test_under_v1_an_error_is_a_problem_document() -> None:
    with every() as case:
        for error in every_app_error():
            with case(error.slug):
                got = await answer(error, "/api/v1/incidents")
                assert got.headers["content-type"] == "application/problem+json"
                assert got.headers["cache-control"] == "no-store"
                assert got.json() == {
                    "type": f"/problems/{error.slug}",
                    "title": error.title,
                    "status": got.status_code,
                    "detail": "Do this instead",
                    "instance": "/api/v1/incidents",
                    "request_id": "0123456789abcdef",
                }
                assert got.status_code == error.status


async def test_elsewhere_an_error_has_the_shape_of_the_original() -> None:
    paths = [path for path in PATHS if "v1" not in path]
    with every() as case:
        for error, path in product(every_app_error(), paths):
            with case(error.slug, path):
                got = await answer(error, path)
                assert got.headers["content-type"] == "application/json; charset=utf-8"
                assert got.json() == {"message": "Do this instead", "requestId": "0123456789abcdef"}
                assert got.status_code == error.status


async def test_errors_of_the_core_have_their_status_and_no_cause() -> None:
    with every() as case:
        for (error, status, slug, retry_after), path in product(CORE, PATHS):
            with case(slug, path):
                got = await answer(error, path)
                assert (got.status_code, got.headers.get("retry-after")) == (status, retry_after)
                assert CAUSE not in got.text
                if "v1" in path:
                    assert got.json()["type"] == f"/problems/{slug}"
                    assert got.json()["detail"]
                else:
                    assert list(got.json()) == ["message", "requestId"]


async def test_a_crash_says_what_failed_and_not_why() -> None:
    messages = {
        "/api/v0/incidents": "Failed to retrieve incidents",
        "/api/v0/incidents/start": "Failed to store incident",
        "/healthz": "Internal Server Error",
    }
    with every() as case:
        for path, message in messages.items():
            with case(path):
                assert (await answer(OSError(CAUSE), path)).json()["message"] == message


async def test_without_a_key_the_outcome_is_reported_as_unknown() -> None:
    got = await answer(OutcomeUnknownError("database"), "/api/v0/incidents/start")
    assert "may or may not" in got.json()["message"]


async def test_fields_headers_and_further_members_are_handed_on() -> None:
    fields = [FieldError("/title", "required", "is required")]
    got = await answer(InvalidFieldsError("Correct it", errors=fields), "/api/v1/incidents")
    assert got.json()["errors"] == [
        {"pointer": "/title", "code": "required", "message": "is required"}
    ]
    refusal = PreconditionFailedError(
        "No", headers={"ETag": '"7"'}, extra={"allowed": ["OPEN"], "status": 1}
    )
    got = await answer(refusal, "/api/v1/incidents")
    assert (got.headers["etag"], got.json()["allowed"], got.json()["status"]) == (
        '"7"',
        ["OPEN"],
        412,
    )


async def test_v0_shows_the_version_that_it_is_given() -> None:
    problems = Problems(version="1.2.3")
    assert (await answer(OSError(), "/healthz", problems=problems)).json()[
        "serviceVersion"
    ] == "1.2.3"
    assert (
        "serviceVersion"
        not in (await answer(OSError(), "/api/v1/incidents", problems=problems)).json()
    )


async def test_what_the_framework_refuses_is_malformed() -> None:
    with every() as case:
        for status in (400, 401, 413):
            with case(status):
                got = await answer(HTTPException(status, CAUSE), "/api/v1/incidents")
                assert (got.status_code, got.json()["type"]) == (400, "/problems/malformed")
                assert CAUSE not in got.text


async def test_a_condition_that_is_refused_has_its_problem_and_names_the_current_version() -> None:
    with every() as case:
        for status, slug in (
            (400, "malformed"),
            (412, "precondition-failed"),
            (428, "precondition-required"),
        ):
            with case(status):
                error = ConditionError(
                    status, "Send another", {"ETag": '"7"'} if status == 412 else None
                )
                got = await answer(error, "/api/v1/incidents")
                assert (got.status_code, got.json()["type"]) == (status, f"/problems/{slug}")
                assert (got.json()["detail"], got.headers["cache-control"]) == (
                    "Send another",
                    "no-store",
                )
                assert got.headers.get("etag") == ('"7"' if status == 412 else None)
                assert (await answer(error, "/healthz")).json()["message"] == "Send another"


async def test_a_method_that_the_framework_refuses_is_named_with_those_allowed() -> None:
    got = await answer(HTTPException(405, headers={"Allow": "GET"}), "/incidents")
    assert (got.status_code, got.headers["allow"]) == (405, "GET")
    assert got.json()["message"] == "Method 'GET' is not allowed for '/incidents'"


BROWSER = {"Accept": "text/html,application/xhtml+xml"}


async def test_a_browser_gets_a_page_outside_of_the_apis() -> None:
    problems = Problems(pages=Pages(version="1"))
    with every() as case:
        for error in (errors.NotFoundError("No"), OSError(CAUSE), PoolTimeoutError("pool", 1.0)):
            with case(type(error)):
                page = await answer(error, "/incidents", problems=problems, headers=BROWSER)
                assert page.headers["content-type"] == "text/html; charset=utf-8"
                assert "<h1>" in page.text
            for path, headers in (
                ("/api/v1/incidents", BROWSER),
                ("/api/v0/incidents", BROWSER),
                ("/incidents", None),
            ):
                with case(type(error), path):
                    got = await answer(error, path, problems=problems, headers=headers)
                    assert "json" in got.headers["content-type"]


async def test_an_unknown_path_is_named_as_it_is_decoded() -> None:
    got = await answer(OSError(), "/a%20b%3Cc%3E%27?q=1")
    assert (got.status_code, got.json()["message"]) == (404, "Endpoint '/a b<c>'' does not exist")
    got = await answer(OSError(), "/api/v1/a%20b%3C")
    assert got.json()["instance"] == "/api/v1/a%20b%3C"


async def test_a_slash_too_many_leads_to_the_path_without_it() -> None:
    with every() as case:
        for method, status in (("GET", 301), ("HEAD", 301), ("POST", 307), ("DELETE", 307)):
            with case(method):
                got = await answer(OSError(), "/healthz/?a=b%20c", method=method)
                assert (got.status_code, got.headers["location"]) == (status, "/healthz?a=b%20c")


ROUTES = [
    Route("/", raising(OSError())),
    Route("/a", raising(OSError())),
    Route("/é/{ref}", raising(OSError())),
]


TARGETS: list[tuple[str, str | None]] = [
    ("/a/", "/a"),
    ("/é/x y/", "/%C3%A9/x%20y"),
    ("/a", None),
    ("/", None),
    ("//", "/"),
    ("/a//", None),
    ("//evil.example/", None),
    ("//a/", None),
    ("/nowhere/", None),
    ("/\\evil.example/", None),
]


def test_only_a_route_is_a_target() -> None:
    with every() as case:
        for path, target in TARGETS:
            with case(path):
                assert redirect_target(path, ROUTES) == target


@given(st.text())
@example("//evil.example/")
@example("/é//evil.example/")
@example("//\\")
def test_no_path_leads_to_another_host(path: str) -> None:
    everything = [Route("/{rest:path}", raising(OSError()))]
    target = redirect_target(path, everything)
    assert target is None or (target.startswith("/") and target[1:2] not in {"/", "\\"})


def test_a_body_is_compact_and_safe_inside_html() -> None:
    assert (
        encode({"a": ["<&>\u2028\u2029é"]})
        == b'{"a":["\\u003c\\u0026\\u003e\\u2028\\u2029\xc3\xa9"]}'
    )


@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_any_text_can_be_rendered(detail: str, path: str) -> None:
    fault = errors.MalformedError(detail)
    for each in (path, "/api/v1/" + path):
        _, content = render(fault, path=each, request_id="x")
        assert isinstance(cast("object", json.loads(content)), dict)


async def test_the_page_of_a_problem_says_more_than_its_title() -> None:
    pages = Pages(version="1")
    with every() as case:
        for kind in every_app_error():
            with case(kind.slug):
                page = await explain(slug=kind.slug)
                lead = bytes(pages.page(page.template, page.context).body).partition(
                    b'<p class="lead">'
                )[2]
                assert len(lead.partition(b"</p>")[0]) > 20
