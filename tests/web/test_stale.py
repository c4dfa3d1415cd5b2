"""The last answer of a caller is given again while a dependency is away.

To that caller, and only what was declared.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from postfacta_core import CircuitOpenError, DeadlineExceededError, ResilienceError
from postfacta_core.asgi import Telemetry, harden, problem_handler
from postfacta_core.errors import (
    DatabaseUnavailableError,
    OutcomeUnknownError,
    PoolTimeoutError,
    ReadOnlyDatabaseError,
)
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import ManualClock, call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from postfacta_web.stale import StaleAnswers, allow_stale, is_away
from tests.kit.every import every

AWAY = DatabaseUnavailableError("postgres", 1.0)
TODAY = 1_772_359_200.0  # 2026-03-01T10:00:00Z, and the seconds of the clock on top


class Shop:
    """A route whose answer a test sets, hardened, with an exception handler.

    Callers are named by a header.
    """

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock()
        self.answer: Callable[[], Response] = lambda: JSONResponse("new")
        self.error: Exception | None = None
        self.is_allowed = True
        self.calls = 0
        self.stale = StaleAnswers(
            "postgres", monotonic=self.clock, wall=lambda: TODAY + self.clock(), **settings
        )
        routes = [
            Route(path, self.stale.around(self.orders, self.caller), methods=["GET", "POST"])
            for path in ("/orders", "/bills")
        ]
        handlers = {ResilienceError: problem_handler}
        self.telemetry = Telemetry(metrics=Metrics())
        web = Starlette(routes=routes, exception_handlers=handlers)
        self.app = harden(web, service="shop", telemetry=self.telemetry)

    @staticmethod
    def caller(request: Request) -> str | None:
        return request.headers.get("x-caller")

    async def orders(self, request: Request) -> Response:
        self.calls += 1
        if self.error is not None:
            raise self.error
        if self.is_allowed:
            allow_stale(request)
        return self.answer()

    async def get(
        self, path: str = "/orders", *, query: str = "", method: str = "GET", **headers: str
    ) -> AsgiResponse:
        headers = {"x_caller": "ada", **headers}
        pairs = [(name.replace("_", "-"), value) for name, value in headers.items() if value]
        return await call_asgi(self.app, method, path, query=query, headers=pairs)

    async def has_kept(self, **how: Any) -> bool:
        self.error = AWAY
        answer = await self.get(**how)
        assert answer.status in {200, 503}
        assert (answer.header("cache-status") is not None) is (answer.status == 200)
        return answer.status == 200


async def test_the_last_answer_is_given_again_and_marked() -> None:
    shop = Shop(cache="shop", detail="no-database")
    shop.answer = lambda: JSONResponse("first")
    await shop.get()
    shop.clock.advance(10.0)
    shop.answer = lambda: JSONResponse("new")
    fresh = await shop.get()
    shop.error = AWAY
    shop.clock.advance(61.9)
    old = await shop.get()
    assert (old.status, old.body, old.header("content-type")) == (
        200,
        fresh.body,
        "application/json",
    )
    marks = [
        old.header(name) for name in ("age", "cache-status", "cache-control", "content-length")
    ]
    assert marks == ["61", "shop; hit; ttl=-61; detail=no-database", "no-store", "5"]
    assert (fresh.header("age"), fresh.header("cache-status")) == (None, None)
    shop.error = None
    assert (await shop.get()).header("age") is None


def test_only_a_dependency_that_could_not_be_asked_is_away() -> None:
    away: list[ResilienceError] = [
        AWAY,
        PoolTimeoutError("postgres"),
        DeadlineExceededError("postgres"),
        CircuitOpenError("postgres"),
    ]
    others: list[ResilienceError] = [
        DeadlineExceededError("request"),
        DatabaseUnavailableError("another"),
        ReadOnlyDatabaseError("postgres"),
        OutcomeUnknownError("postgres"),
    ]
    assert [is_away(error, "postgres") for error in [*away, *others]] == [True] * 4 + [False] * 4


async def test_other_errors_are_raised_and_leave_what_is_kept() -> None:
    shop = Shop()
    await shop.get()
    shop.error = ReadOnlyDatabaseError("postgres")
    assert (await shop.get()).status == 503
    shop.error = KeyError("a bug")
    with pytest.raises(KeyError):
        await shop.get()
    assert await shop.has_kept()


async def test_an_answer_belongs_to_its_caller_and_address() -> None:
    shop = Shop()
    await shop.get(query="a=1", host="one.example")
    assert await shop.has_kept(query="a=1", host="one.example")
    with every() as case:
        for how in (
            {"x_caller": "bob"},
            {"query": "a=2"},
            {"query": ""},
            {"path": "/bills"},
            {"host": "two.example"},
        ):
            with case(how):
                assert not await shop.has_kept(**{"query": "a=1", "host": "one.example", **how})


async def test_nothing_is_kept_for_a_caller_who_is_not_known() -> None:
    shop = Shop()
    assert (await shop.get(x_caller="")).status == 200
    assert not await shop.has_kept(x_caller="")


async def test_a_write_is_never_answered_from_what_is_kept() -> None:
    shop = Shop()
    await shop.get(method="POST")
    assert not await shop.has_kept()
    shop.error = None
    await shop.get()
    assert not await shop.has_kept(method="POST")
    assert await shop.has_kept()


async def test_a_head_is_answered_but_its_answer_not_kept() -> None:
    shop = Shop()
    await shop.get(method="HEAD")
    assert not await shop.has_kept()
    shop.error = None
    await shop.get()
    await shop.get(method="HEAD")
    assert await shop.has_kept(method="HEAD")
    shop.error, shop.is_allowed = None, False
    await shop.get(method="HEAD")
    assert not await shop.has_kept()


def streamed() -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"new"

    return StreamingResponse(pieces())


async def test_what_cannot_be_kept_drops_what_was_kept_before() -> None:
    answers: dict[str, Callable[[], Response]] = {
        "a stream": streamed,
        "a refusal": lambda: Response(status_code=403),
        "an answer of 500": lambda: Response(status_code=500),
        "one that depends on everything": lambda: Response("new", headers={"vary": "accept, *"}),
        "another version": lambda: Response(status_code=304, headers={"etag": '"2"'}),
    }
    with every() as case:
        for name, answer in answers.items():
            with case(name):
                shop = Shop()
                await shop.get()
                shop.answer = answer
                await shop.get()
                assert not await shop.has_kept()
        with case("not declared"):
            shop = Shop()
            await shop.get()
            shop.is_allowed = False
            await shop.get()
            assert not await shop.has_kept()
        with case("the same version, not declared"):
            shop = Shop()
            shop.answer = lambda: Response("new", headers={"etag": '"1"'})
            await shop.get()
            shop.is_allowed = False
            shop.answer = lambda: Response(status_code=304, headers={"etag": '"1"'})
            await shop.get()
            assert not await shop.has_kept()
        with case("raised"):
            shop = Shop()
            await shop.get()
            shop.error = HTTPException(404)
            assert (await shop.get()).status == 404
            assert not await shop.has_kept()


async def test_types_of_errors_that_are_answers_can_be_chosen() -> None:
    shop = Shop(refusals=(LookupError,))
    await shop.get()
    shop.error = HTTPException(404)
    await shop.get()
    assert await shop.has_kept()
    shop.error = KeyError("order 7")
    with pytest.raises(KeyError):
        await shop.get()
    assert not await shop.has_kept()


async def test_an_answer_that_varies_is_given_to_the_same_request_headers() -> None:
    shop = Shop()
    shop.answer = lambda: Response("neu", headers={"vary": "Accept-Language, accept"})
    await shop.get(accept_language="de")
    assert await shop.has_kept(accept_language="de")
    assert not await shop.has_kept(accept_language="en")
    assert not await shop.has_kept(accept_language="de", accept="text/html")


async def test_cookies_are_not_set_again_and_repeated_headers_stay() -> None:
    def answer() -> Response:
        response = JSONResponse("new", headers={"cache-control": "max-age=60"})
        response.set_cookie("session", "7")
        response.headers.append("link", "<a>")
        response.headers.append("link", "<b>")
        return response

    shop = Shop()
    shop.answer = answer
    assert (await shop.get()).header("set-cookie")
    shop.error = AWAY
    old = await shop.get()
    assert old.header("set-cookie") is None
    assert [value for name, value in old.headers if name == b"link"] == [b"<a>", b"<b>"]
    assert [value for name, value in old.headers if name == b"cache-control"] == [b"no-store"]


async def test_bounds_of_age_count_and_bytes_are_kept() -> None:
    shop = Shop(max_age=60.0, max_entries=2, max_bytes=10_000)
    for query in ("1", "2", "3"):
        await shop.get(query=query)
    assert [await shop.has_kept(query=query) for query in ("1", "2", "3")] == [False, True, True]
    shop.error, shop.answer = None, lambda: Response(b"." * 6000)
    await shop.get(query="2")
    await shop.get(query="3")
    assert [await shop.has_kept(query=query) for query in ("2", "3")] == [False, True]
    shop.error, shop.answer = None, lambda: Response(b"." * 10_000)
    await shop.get(query="4")
    assert not await shop.has_kept(query="4")
    shop.clock.advance(59.9)
    assert await shop.has_kept(query="3")
    shop.clock.advance(0.1)
    assert not await shop.has_kept(query="3")


async def test_headers_and_urls_count_as_bytes() -> None:
    shop = Shop(max_bytes=1000)
    await shop.get(query="a" * 1000)
    assert not await shop.has_kept(query="a" * 1000)
    shop.error, shop.answer = None, lambda: Response("", headers={"x-note": "a" * 1000})
    await shop.get()
    assert not await shop.has_kept()


async def test_what_was_read_before_a_revocation_is_not_kept_after_it() -> None:
    shop = Shop()
    await shop.get()
    shop.stale.forget()
    assert not await shop.has_kept()

    def revoked_meanwhile() -> Response:
        shop.stale.forget()
        return Response("read before")

    shop.error, shop.answer = None, revoked_meanwhile
    await shop.get()
    assert not await shop.has_kept()


async def test_a_client_that_has_the_kept_version_gets_304() -> None:
    shop = Shop()
    shop.answer = lambda: Response("new", headers={"etag": '"1"', "link": "<a>"})
    await shop.get()
    shop.error = AWAY
    with every() as case:
        for given, status in (
            ('"1"', 304), ('W/"1"', 304), ('"0", W/"1"', 304), (" * ", 304), ('"2"', 200), ("x", 200), ("1", 200), ("", 200),
        ):  # fmt: skip
            with case(given):
                old = await shop.get(if_none_match=given)
                assert (old.status, old.body) == (status, b"new" if status == 200 else b"")
                assert (old.header("etag"), old.header("link"), old.header("age")) == (
                    '"1"',
                    "<a>",
                    "0",
                )


async def test_a_304_of_the_same_version_renews_it() -> None:
    shop = Shop()
    shop.answer = lambda: Response("new", headers={"etag": '"1"'})
    await shop.get()
    shop.clock.advance(600)
    shop.answer = lambda: Response(status_code=304, headers={"etag": '"1"'})
    await shop.get()
    shop.clock.advance(600)
    shop.error = AWAY
    old = await shop.get()
    assert (old.status, old.body, old.header("age")) == (200, b"new", "600")


async def test_a_page_is_marked_and_nothing_else() -> None:
    def mark(body: bytes, at: datetime) -> bytes:
        return body + at.isoformat().encode()

    shop = Shop(mark=mark)
    shop.answer = lambda: HTMLResponse("<p>new</p>")
    await shop.get()
    shop.clock.advance(61)
    shop.error = AWAY
    page = await shop.get()
    assert page.body == b"<p>new</p>2026-03-01T10:16:40+00:00"
    assert page.header("content-length") == str(len(page.body))
    shop.error, shop.answer = None, lambda: JSONResponse("<p>new</p>")
    await shop.get()
    shop.error = AWAY
    assert (await shop.get()).body == b'"<p>new</p>"'


async def test_answers_are_counted_by_where_they_came_from() -> None:
    shop = Shop()
    await shop.get()
    await shop.get(path="/bills")
    shop.error = AWAY
    await shop.get()
    await shop.get(query="never")
    await shop.get(query="never")
    page = (await call_asgi(shop.app, "GET", "/metrics")).body.decode()
    counts = [
        line for line in page.splitlines() if line.startswith("postfacta_fallback_answers_total{")
    ]
    assert [line.rpartition(" ")[2] for line in sorted(counts) if "postgres" in line] == [
        "2.0",
        "2.0",
        "1.0",
    ]


async def test_a_handler_may_name_its_parameters_as_it_likes() -> None:
    stale, app = StaleAnswers("postgres"), FastAPI()

    async def order(number: int, asked: Request) -> Response:
        return Response(f"{number} {asked.url.path}")

    app.get("/orders/{number}")(stale.around(order, lambda request: request.method))
    response = await call_asgi(app, "GET", "/orders/7")
    assert (response.status, response.body) == (200, b"7 /orders/7")


def test_a_plain_function_is_refused() -> None:
    def orders(request: Request) -> Response:
        raise NotImplementedError

    stale = StaleAnswers("postgres")
    wrong: Any = orders
    with pytest.raises(TypeError, match="orders is a plain one"):
        stale.around(wrong, Shop.caller)
    nobody: Any = "ada"
    with pytest.raises(ValueError, match=r"StaleAnswers\.caller must be a function, not 'ada'"):
        stale.around(Shop().orders, nobody)


class FastShop:
    """A FastAPI service of which one router keeps answers."""

    def __init__(self) -> None:
        self.auth: Exception | None = None
        self.error: Exception | None = None
        stale = StaleAnswers("postgres")

        class KeptRoute(APIRoute):
            def get_route_handler(self) -> Any:
                return stale.around(super().get_route_handler(), Shop.caller)

        router = APIRouter(route_class=KeptRoute, dependencies=[Depends(self.sign_in)])
        router.get("/orders", dependencies=[Depends(allow_stale)])(self.orders)
        router.get("/bills/{number}")(self.bill)
        self.app = FastAPI(exception_handlers={ResilienceError: problem_handler})
        self.app.include_router(router, prefix="/v1")

    async def sign_in(self) -> None:
        if self.auth is not None:
            raise self.auth

    def orders(self) -> dict[str, int]:
        if self.error is not None:
            raise self.error
        return {"orders": 7}

    async def bill(self, number: int, request: Request) -> dict[str, int]:
        if self.error is not None:
            raise self.error
        if number != 13:
            allow_stale(request)
        return {"bill": number}


@pytest.mark.parametrize("away", ["auth", "error"])
async def test_a_router_of_fastapi_keeps_what_its_routes_declare(away: str) -> None:
    shop = FastShop()
    paths = ("/v1/orders", "/v1/bills/7", "/v1/bills/13")
    ada = [("x-caller", "ada")]
    for path in paths:
        assert (await call_asgi(shop.app, "GET", path, headers=ada)).status == 200
    setattr(shop, away, AWAY)
    answers = [await call_asgi(shop.app, "GET", path, headers=ada) for path in paths]
    assert [answer.status for answer in answers] == [200, 200, 503]
    assert [answer.json() for answer in answers[:2]] == [{"orders": 7}, {"bill": 7}]
    assert answers[0].header("age") == "0"
    assert (await call_asgi(shop.app, "GET", paths[0], headers=[("x-caller", "bob")])).status == 503
