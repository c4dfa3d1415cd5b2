"""What browsers are spared: compressed pages, kept assets, and refusals that say what to do."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

import pytest

from postfacta_app.errors import slow_down
from postfacta_app.web.render import ASSETS_VERSION
from tests.app.desk import Desk, desk_of
from tests.app.live import Service, in_process
from tests.app.screen import Screen, forms_of

CSS = "/static/postfacta.css"
HTML = {"Accept": "text/html"}


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    async with in_process(shared_app_dsn) as running:
        yield running


@pytest.fixture
async def desk(service: Service) -> Desk:
    return await desk_of(service)


async def test_pages_and_assets_are_compressed_and_json_is_not(
    service: Service, desk: Desk
) -> None:
    who = await service.cookie(await service.person("responder"))
    page = await service.client.get(f"/incidents/{desk.ref}", headers=who | HTML)
    assert page.headers["content-encoding"] == "gzip"
    assert "Accept-Encoding" in page.headers["vary"]
    assert int(page.headers["content-length"]) * 3 < len(page.content)
    plain = await service.client.get(
        f"/incidents/{desk.ref}", headers=who | HTML | {"Accept-Encoding": "identity"}
    )
    assert "content-encoding" not in plain.headers
    assert (await service.client.get(CSS)).headers["content-encoding"] == "gzip"
    listed = await service.client.get("/api/v1/incidents", headers=who)
    assert "content-encoding" not in listed.headers


async def test_assets_of_this_version_are_kept_for_a_year(service: Service) -> None:
    page = await service.client.get("/signin", headers=HTML)
    addresses = re.findall(r'href="(/static/[^"]+)"', page.text)
    assert addresses == [f"{CSS}?{ASSETS_VERSION}", f"/static/icon.svg?{ASSETS_VERSION}"]
    for address in addresses:
        answer = await service.client.get(address)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    # A process of another version must not fill its name with this one's content.
    for address in (CSS, f"{CSS}?another"):
        assert (await service.client.get(address)).headers["cache-control"] == "no-cache"


async def test_the_address_of_the_api_leads_people_to_the_sign_in_page(service: Service) -> None:
    answer = await service.client.get("/login", headers=HTML)
    assert (answer.status_code, answer.headers["location"]) == (303, "/signin")


@pytest.mark.parametrize(
    ("path", "fields", "kind"),
    [
        ("/people", {"email": "new@example.org", "role": "viewer"}, "password"),
        ("/people/tokens", {"name": "ci", "scope-incidents:read": "on"}, "token"),
    ],
    ids=["password", "token"],
)
async def test_a_secret_is_shown_once_by_a_page_that_may_be_loaded_again(
    service: Service, path: str, fields: dict[str, str], kind: str
) -> None:
    screen = await Screen.of(service, "admin")
    done = await screen.send(await screen.get("/people"), path, fields)
    assert done.headers["location"] == "/people"
    cookie = done.headers["set-cookie"]
    assert "HttpOnly; SameSite=Strict" in cookie
    assert "Max-Age=60; Path=/people;" in cookie
    shown = await screen.shown_once(done)
    assert "It is not shown again." in shown.text
    (secret,) = re.findall(r"<p><code>([^<]+)</code></p>", shown.text)
    assert len(secret) >= 16
    assert secret.startswith("pf_") is (kind == "token")
    assert "Max-Age=0; Path=/people" in shown.headers["set-cookie"]
    screen.headers["Cookie"] += "; postfacta-once=nonsense"
    assert "It is not shown again." not in (await screen.get("/people")).text


async def test_refusals_say_what_to_do(service: Service, desk: Desk) -> None:
    screen = await Screen.of(service)
    page = await screen.get(f"/incidents/{desk.ref}")
    csrf = forms_of(page)[0].fields["csrf"]
    headers = screen.headers | HTML | {"Sec-Fetch-Site": "same-origin"}
    large = await service.client.post(
        f"/incidents/{desk.ref}/notes", data={"csrf": csrf, "body": "x" * 2**20}, headers=headers
    )
    assert large.status_code == 413
    assert "your input is still in the form" in large.text
    forbidden = await service.client.post(
        f"/incidents/{desk.ref}/notes", data={"csrf": "f" * 128, "body": "x"}, headers=headers
    )
    assert forbidden.status_code == 403
    assert "To keep what you typed, go back in your browser" in forbidden.text
    assert slow_down(61.5).detail == "Too many attempts; try again in 62 s"
