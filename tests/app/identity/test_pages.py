"""The sign-in form: where it leads, and what it sets."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from postfacta_app.errors import AppError
from postfacta_app.identity.http import IdentityHttp
from postfacta_app.identity.local import LocalAccounts, Passwords
from postfacta_app.identity.pages import SignInPages
from postfacta_app.principal import Access
from postfacta_app.web.render import Pages
from postfacta_app.web.routes import RouteClass, Rule, build_routes

if TYPE_CHECKING:
    from .conftest import World

EMAIL, PASSWORD = "ada@example.org", "correct horse battery"
OURS = {"Sec-Fetch-Site": "same-origin"}


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError | HTTPException)
    return Response(status_code=error.status if isinstance(error, AppError) else error.status_code)


@pytest.fixture
async def browser(world: World) -> AsyncGenerator[httpx2.AsyncClient]:
    """Open the pages, beside the API of the same world."""
    accounts = LocalAccounts(
        world.store, world.transactions, passwords=Passwords(world.hasher), clock=lambda: world.wall
    )
    http = IdentityHttp(
        world.settings, world.store, world.transactions, accounts=accounts, forget=world.guard.forget
    )
    pages = SignInPages(accounts, http, Pages(version="1"), is_local=True)
    rows = (
        ("GET", "/signin", pages.form, Access.OPEN),
        ("POST", "/signin", pages.submit, Access.OPEN),
        ("POST", "/signout", pages.leave, Access.OPEN),
        ("GET", "/api/v1/me", http.me, Access.SIGNED_IN),
    )
    table = [
        Rule(method=method, path=path, handler=handler, access=access, route_class=RouteClass.AUTH)
        for method, path, handler, access in rows
    ]
    app = Starlette(routes=build_routes(table, world.guard.authenticate))
    app.add_exception_handler(AppError, _refuse)
    transport = httpx2.ASGITransport(app, client=("192.0.2.8", 4711))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def submit(
    browser: httpx2.AsyncClient, headers: dict[str, str] | None = None, **fields: str
) -> httpx2.Response:
    form = {"email": EMAIL, "password": PASSWORD, **fields}
    return await browser.post(
        "/signin", headers=OURS if headers is None else headers, content=urlencode(form).encode()
    )


async def test_signing_in_sets_the_cookie_and_signing_out_ends_the_session(
    world: World, browser: httpx2.AsyncClient
) -> None:
    ada = await world.person(EMAIL)
    answer = await submit(browser)
    assert (answer.status_code, answer.headers["location"]) == (303, "/incidents")
    cookie, device = answer.headers.get_list("set-cookie")
    assert device.startswith("postfacta-device=")
    assert device.endswith("; Max-Age=15552000; Path=/; HttpOnly; SameSite=Lax")
    assert cookie.startswith("postfacta=")
    assert cookie.endswith("; Max-Age=604800; Path=/; HttpOnly; SameSite=Lax")
    assert (await browser.get("/api/v1/me")).json()["actor"] == f"user:{ada.id}"
    session = {"Cookie": cookie.partition(";")[0]}
    assert (await browser.post("/signout", headers=OURS, content=b"csrf=wrong")).status_code == 403
    csrf = (await world.client.get("/who", headers=session)).json()["csrf"]
    answer = await browser.post("/signout", headers=OURS, content=f"csrf={csrf}".encode())
    assert (answer.status_code, answer.headers["location"]) == (303, "/signin")
    assert (await browser.get("/api/v1/me", headers=session)).status_code == 401


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "//[",
        "/a\r\nSet-Cookie: postfacta=x",
        "/\t/evil.example",
        "/é",
        "",
    ],
    ids=ascii,
)
async def test_after_signing_in_one_stays_on_this_site(
    world: World, browser: httpx2.AsyncClient, target: str
) -> None:
    await world.person(EMAIL)
    assert (await browser.get("/signin", params={"next": target})).status_code == 200
    answer = await submit(browser, next=target)
    assert (answer.status_code, answer.headers["location"]) == (303, "/incidents")


async def test_after_signing_in_one_is_where_one_wanted_to_be(
    world: World, browser: httpx2.AsyncClient
) -> None:
    await world.person(EMAIL)
    assert (await submit(browser, next="/incidents/INC-1?a=b")).headers["location"] == "/incidents/INC-1?a=b"


@pytest.mark.parametrize(
    "headers", [{}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}], ids=str
)
async def test_a_cross_site_page_cannot_sign_a_person_in(
    world: World, browser: httpx2.AsyncClient, headers: dict[str, str]
) -> None:
    await world.person(EMAIL)
    answer = await submit(browser, headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "email", [EMAIL, "nobody@example.org", "a\0b", "\ud800", "x" * 400, '"><script>'], ids=ascii
)
async def test_a_failed_sign_in_shows_the_form_again_and_never_the_password(
    world: World, browser: httpx2.AsyncClient, email: str
) -> None:
    await world.person(EMAIL)
    content = urlencode({"email": email.encode("utf-8", "surrogatepass"), "password": "not the password"})
    answer = await browser.post("/signin", headers=OURS, content=content.encode())
    assert answer.status_code in {401, 422}
    assert "Wrong e-mail or password" in answer.text
    assert "not the password" not in answer.text
    assert "<script>" not in answer.text
