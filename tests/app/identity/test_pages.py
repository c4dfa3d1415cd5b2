"""The sign-in form: where it leads, and what it sets."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import httpx2
import pytest

if TYPE_CHECKING:
    from .conftest import World

EMAIL, PASSWORD = "ada@example.org", "correct horse battery"
OURS = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
async def browser(world: World) -> AsyncGenerator[httpx2.AsyncClient]:
    """Open the pages, with cookies of their own."""
    client, _ = world.instance(world.settings)
    async with client:
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
    assert (await submit(browser, next="/incidents/INC-1?a=b")).headers[
        "location"
    ] == "/incidents/INC-1?a=b"


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
    content = urlencode(
        {"email": email.encode("utf-8", "surrogatepass"), "password": "not the password"}
    )
    answer = await browser.post("/signin", headers=OURS, content=content.encode())
    assert answer.status_code in {401, 422}
    assert "Wrong e-mail or password" in answer.text
    assert "not the password" not in answer.text
    assert "<script>" not in answer.text
    assert email != EMAIL or f'value="{EMAIL}"' in answer.text
