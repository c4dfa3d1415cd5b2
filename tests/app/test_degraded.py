"""The service while PostgreSQL is away.

Who may read what, for how long, and what becomes of writes.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
import httpx2
import pytest
from playwright.sync_api import Page

from postfacta_app.identity import guard
from postfacta_app.migrations import upgrade
from postfacta_embedded import EmbeddedPostgres
from tests.app.browsing import CONTRAST, NEEDS_CHROMIUM, chromium, sign_in as sign_in_by_form
from tests.app.desk import FULL, desk_of
from tests.app.live import NEW, PATCH_JSON, Service, in_process
from tests.app.running import ADMIN, LiveService, live_service, sign_in
from tests.app.test_access import table
from tests.kit.pg import create_database, fresh_database, prepared_server

pytestmark = pytest.mark.usefixtures("programs")

LIST = "/api/v1/incidents?severity=HIGH"
# Written out from the design (section 10.2): what may be stale, of what there is.
PATHS = {
    "/api/v0/incidents": "/api/v0/incidents",
    "/api/v0/incidents/{id:uuid}": "/api/v0/incidents/{id}",
    "/api/v1/incidents": LIST,
    "/api/v1/incidents/{ref}": "/api/v1/incidents/INC-{number}",
    "/api/v1/incidents/{ref}/timeline": "/api/v1/incidents/INC-{number}/timeline",
    "/api/v1/incidents/{ref}/durations": "/api/v1/incidents/INC-{number}/durations",
    "/api/v1/durations": "/api/v1/durations?severity=HIGH",
    "/incidents": "/incidents?status=OPEN",
    "/incidents/{ref}": "/incidents/INC-{number}",
    "/incidents/{ref}/postmortem": "/incidents/INC-{number}/postmortem",
    "/insights": "/insights?severity=HIGH",
}
# The same, of what needs more than an incident to be there: each has a test of its own.
MORE = {"/api/v1/incidents/{ref}/postmortem"}
NEVER = ["/api/v1/audit", "/api/v1/tokens", "/api/v1/users"]
PATIENCE = 30.0


@pytest.fixture(scope="module")
def mortal() -> Generator[EmbeddedPostgres]:
    """Run a PostgreSQL of this module's own, which it may stop."""
    settings = {"fsync": "off", "full_page_writes": "off"}
    with prepared_server(settings) as server:
        upgrade(create_database(server, "app_template"), progress=lambda _: None)
        yield server


@pytest.fixture
def mortal_dsn(mortal: EmbeddedPostgres) -> Iterator[str]:
    with fresh_database(mortal, "app_template") as dsn:
        yield dsn


@pytest.fixture
async def service(mortal_dsn: str) -> AsyncGenerator[Service]:
    async with in_process(mortal_dsn) as running:
        yield running


@contextmanager
def away(server: EmbeddedPostgres) -> Generator[None]:
    """Stop the database for the block."""
    server.stop()
    try:
        yield
    finally:
        server.start()


@contextmanager
def frozen(server: EmbeddedPostgres) -> Generator[None]:
    """Stop all processes of the database where they stand, for the block."""
    stopped: list[int] = []
    try:
        for pid in _family(server.pid or 0):
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def _family(pid: int) -> Iterator[int]:
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from _family(int(child))


def urls(incident: dict[str, Any]) -> list[str]:
    return [path.format(**incident) for path in PATHS.values()]


def assert_stale(answer: httpx2.Response) -> None:
    assert answer.status_code == 200, answer.text
    age = int(answer.headers["Age"])
    assert 0 <= age < 600
    cached = f"postfacta; hit; ttl={-age}; detail=database-unavailable"
    assert (answer.headers["Cache-Status"], answer.headers["Cache-Control"]) == (cached, "no-store")


def assert_unavailable(answer: httpx2.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) >= 1
    assert not answer.headers.keys() & {"age", "cache-status"}


def test_what_may_be_stale_is_what_the_design_says() -> None:
    assert {rule.path for rule in table() if rule.stale} == PATHS.keys() | MORE
    assert {rule.method for rule in table() if rule.stale} == {"GET"}


# Everybody who may read, by each way to prove it; the database is asked who they are each time.
@pytest.mark.parametrize("proof", ["bearer", "cookie", "machine"])
async def test_stale_reads_are_for_the_same_caller_only(
    service: Service, mortal: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, *, proof: str
) -> None:
    monkeypatch.setattr(guard, "_TRUSTED_FOR", 0.0)
    incident = await service.record(await service.as_role("responder"))
    person = await service.person("viewer")
    mine = await (
        service.machine("incidents:read") if proof == "machine" else getattr(service, proof)(person)
    )
    other, admin = await service.as_role("viewer"), await service.as_role("admin")
    never_seen = await service.as_role("admin")
    before = {url: await service.client.get(url, headers=mine) for url in urls(incident)}
    for url in NEVER:
        assert (await service.client.get(url, headers=admin)).status_code == 200
    assert (await service.client.get("/api/v1/me", headers=other)).status_code == 200
    with away(mortal):
        for url, fresh in before.items():
            answer = await service.client.get(url, headers=mine)
            assert_stale(answer)
            is_page = url.startswith(("/incidents", "/insights"))
            assert ("The database is unavailable; nothing can be saved." in answer.text) == is_page
            assert is_page or answer.content == fresh.content
            assert {"X-Request-ID", "Content-Security-Policy"} <= {
                it.title().replace("Id", "ID") for it in answer.headers
            }
            for stranger in (other, never_seen):
                assert_unavailable(await service.client.get(url, headers=stranger))
            assert (await service.client.get(url)).status_code in {401, 303}
            unknown = {"Authorization": f"Bearer {'x' * 43}"}
            assert_unavailable(await service.client.get(url, headers=unknown))
        assert_unavailable(await service.client.get("/api/v1/incidents?severity=LOW", headers=mine))
        for url in NEVER:
            assert_unavailable(await service.client.get(url, headers=admin))


async def test_a_version_is_compared_with_the_one_that_is_kept(
    service: Service, mortal: EmbeddedPostgres
) -> None:
    who = await service.as_role("responder")
    await service.record(who)
    one = "/api/v1/incidents/INC-1"
    etag = (await service.client.get(one, headers=who)).headers["ETag"]
    with away(mortal):
        same = await service.client.get(one, headers=who | {"If-None-Match": etag})
        assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", etag)
        assert same.headers["Cache-Status"].startswith("postfacta; hit")
        newer = await service.client.get(one, headers=who | {"If-None-Match": '"inc-2"'})
        assert_stale(newer)
        assert newer.headers["ETag"] == etag


@pytest.mark.parametrize("who", ["admin", "member"])
async def test_nothing_that_shows_a_private_incident_is_kept_not_even_for_those_who_may_see_it(
    service: Service, mortal: EmbeddedPostgres, who: str
) -> None:
    member = await service.person("responder")
    reader = await (service.as_role("admin") if who == "admin" else service.bearer(member))
    open_one = await service.record(reader)
    hidden = await service.record(await service.bearer(member), title="Hush", visibility="private")
    seen = [url for url in urls(hidden) if "v0" not in url]
    for url in seen:
        answer = await service.client.get(url, headers=reader)
        assert answer.status_code == 200
        has_title = not url.partition("?")[0].endswith(("/timeline", "/durations", "/insights"))
        assert ("Hush" in answer.text) == has_title
        etag = answer.headers.get("ETag")
        if etag is not None:
            same = await service.client.get(url, headers=reader | {"If-None-Match": etag})
            assert same.status_code == 304
    shown = [url for url in urls(open_one) if url not in seen]
    for url in shown:
        assert (await service.client.get(url, headers=reader)).status_code == 200
    with away(mortal):
        for url in seen:
            assert_unavailable(await service.client.get(url, headers=reader))
        for url in shown:
            answer = await service.client.get(url, headers=reader)
            assert_stale(answer)
            assert "Hush" not in answer.text


async def test_an_incident_made_private_here_is_never_served_stale(
    service: Service, mortal: EmbeddedPostgres
) -> None:
    reader, owner = await service.as_role("viewer"), await service.as_role("responder")
    incident = await service.record(owner)
    for url in urls(incident):
        assert (await service.client.get(url, headers=reader)).status_code == 200
    changed = await service.client.patch(
        "/api/v1/incidents/INC-1",
        json={"visibility": "private"},
        headers=owner | {"If-Match": '"inc-1"', "Content-Type": PATCH_JSON},
    )
    assert changed.status_code == 200
    with away(mortal):
        for url in urls(incident):
            assert_unavailable(await service.client.get(url, headers=reader))


async def test_one_made_private_elsewhere_is_dropped_after_the_next_poll(
    service: Service, mortal: EmbeddedPostgres
) -> None:
    reader = await service.as_role("viewer")
    incident = await service.record(await service.as_role("responder"))
    for url in urls(incident):
        assert (await service.client.get(url, headers=reader)).status_code == 200
    await service.database.execute("update incidents set visibility = 'private'")
    told = {url: await service.client.get(url, headers=reader) for url in urls(incident)}
    assert {answer.status_code for answer in told.values()} == {200, 404}
    with away(mortal):
        for url, answer in told.items():
            old = await service.client.get(url, headers=reader)
            assert NEW["title"] not in old.text
            assert old.status_code == (503 if answer.status_code == 404 else 200)


async def test_what_another_process_makes_private_is_not_served_stale(
    service: Service, mortal_dsn: str, mortal: EmbeddedPostgres
) -> None:
    person, owner = await service.person("viewer"), await service.as_role("responder")
    reader, marker = await service.bearer(person), await service.bearer(person)
    incident = await service.record(owner)
    async with in_process(mortal_dsn) as other:
        for url in urls(incident):
            assert (await other.client.get(url, headers=reader)).status_code == 200
        assert (await other.client.get("/api/v1/me", headers=marker)).status_code == 200
        version = {"If-Match": '"inc-1"', "Content-Type": PATCH_JSON}
        body = {"visibility": "private"}
        changed = await service.client.patch(
            "/api/v1/incidents/INC-1", json=body, headers=owner | version
        )
        assert changed.status_code == 200
        assert (await service.client.post("/logout", headers=marker)).status_code == 204
        # Once the later change has arrived, the earlier one has too.
        with anyio.fail_after(PATIENCE):
            while (await other.client.get("/api/v1/me", headers=marker)).status_code != 401:
                await anyio.sleep(0.05)
        with away(mortal):
            for url in urls(incident):
                assert_unavailable(await other.client.get(url, headers=reader))


@pytest.mark.parametrize("visibility", ["internal", "private"])
async def test_a_post_mortem_is_kept_unless_it_is_private(
    service: Service, mortal: EmbeddedPostgres, visibility: str
) -> None:
    desk = await desk_of(service, visibility=visibility)
    await desk.publish(FULL)
    fresh = await desk.send("GET", "/postmortem", expect=200)
    with away(mortal):
        answer = await service.client.get(f"{desk.path}/postmortem", headers=desk.headers)
        if visibility == "private":
            assert_unavailable(answer)
        else:
            assert_stale(answer)
            assert answer.content == fresh.content


async def test_a_write_is_refused_and_what_was_written_before_stands(
    service: Service, mortal: EmbeddedPostgres
) -> None:
    who = await service.as_role("admin")
    await service.record(who)
    writes: list[tuple[str, str, object]] = [
        ("POST", "/api/v1/incidents", NEW),
        ("PATCH", "/api/v1/incidents/INC-1", {"title": "Another"}),
        ("DELETE", "/api/v1/incidents/INC-1", None),
        ("POST", "/api/v1/incidents/INC-1/transitions", {"to": "RESOLVED"}),
        ("POST", "/api/v0/incidents/start", NEW | {"reporter": "sre"}),
    ]
    with away(mortal):
        for method, path, body in writes:
            kind = PATCH_JSON if method == "PATCH" else "application/json"
            answer = await service.client.request(
                method, path, json=body, headers=who | {"If-Match": '"inc-1"', "Content-Type": kind}
            )
            assert_unavailable(answer)


async def test_a_recent_verification_does_not_allow_writes(
    service: Service, mortal: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_TRUSTED_FOR", 0.0)
    who = await service.as_role("responder")
    assert (await service.client.get("/api/v1/me", headers=who)).status_code == 200
    with away(mortal):
        assert (await service.client.get("/api/v1/me", headers=who)).status_code == 200
        assert_unavailable(await service.client.post("/logout", headers=who))


@pytest.mark.parametrize("has_cookie", [False, True])
async def test_the_sign_in_form_comes_back_with_what_was_typed_but_the_password(
    service: Service, mortal: EmbeddedPostgres, *, has_cookie: bool
) -> None:
    cookie = {"Cookie": f"postfacta={'x' * 43}"} if has_cookie else {}
    typed = {"email": "ada@example.org", "password": "secret enough", "next": "/incidents/INC-7"}
    with away(mortal):
        assert (await service.client.get("/signin", headers=cookie)).status_code == 200
        answer = await service.client.post(
            "/signin",
            content=urlencode(typed).encode(),
            headers=cookie | {"Sec-Fetch-Site": "same-origin", "Accept": "text/html"},
        )
    assert_unavailable(answer)
    assert answer.headers["content-type"].startswith("text/html")
    assert 'value="ada@example.org"' in answer.text
    assert 'name="next" value="/incidents/INC-7"' in answer.text
    assert "Sign-in is temporarily unavailable" in answer.text
    assert typed["password"] not in answer.text


@pytest.mark.parametrize("trusted", [0.0, 10.0], ids=["nobody is trusted", "the writer is trusted"])
async def test_a_form_comes_back_with_what_was_typed_and_makes_one_incident_later(
    service: Service, mortal: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, *, trusted: float
) -> None:
    monkeypatch.setattr(guard, "_TRUSTED_FOR", trusted)
    page = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    who = page | await service.cookie(await service.person("responder"))
    shown = (await service.client.get("/incidents/new", headers=who)).text
    carried = re.findall(r'name="(csrf|key)" value="([^"]+)"', shown)
    assert len({name for name, _ in carried}) == 2
    typed = urlencode(NEW | dict(carried)).encode()
    with away(mortal):
        answer = await service.client.post("/incidents/new", content=typed, headers=who | form)
        assert_unavailable(answer)
        # The token of the session is masked anew.
        for value in (dict(carried)["key"], *NEW.values()):
            assert value in answer.text
        assert 'method="post" action="/incidents/new"' in answer.text
    with anyio.fail_after(PATIENCE):
        while (
            again := await service.client.post("/incidents/new", content=typed, headers=who | form)
        ).is_error:
            assert again.status_code == 503
            await anyio.sleep(0.05)
    assert again.status_code == 303
    replayed = await service.client.post("/incidents/new", content=typed, headers=who | form)
    assert replayed.headers["location"] == again.headers["location"]
    incidents = await service.client.get("/api/v1/incidents", headers=who)
    assert len(incidents.json()["items"]) == 1


async def test_a_note_on_an_incident_comes_back_and_is_there_once_later(
    service: Service, mortal: EmbeddedPostgres
) -> None:
    desk = await desk_of(service)
    who = await service.cookie(await service.person("responder"))
    path = f"/incidents/{desk.ref}"
    shown = (await service.client.get(path, headers=who)).text
    carried = dict(re.findall(r'name="(csrf|key)" value="([^"]+)"', shown))
    typed = urlencode(carried | {"kind": "note", "body": "The cache is cold"}).encode()
    form = {
        **who,
        "Accept": "text/html",
        "Sec-Fetch-Site": "same-origin",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    with away(mortal):
        answer = await service.client.post(f"{path}/notes", content=typed, headers=form)
        assert_unavailable(answer)
        assert "The cache is cold" in answer.text
        assert carried["key"] in answer.text
        assert f'method="post" action="{path}/notes"' in answer.text
    with anyio.fail_after(PATIENCE):
        while (
            again := await service.client.post(f"{path}/notes", content=typed, headers=form)
        ).is_error:
            assert again.status_code == 503
            await anyio.sleep(0.05)
    assert (
        await service.client.post(f"{path}/notes", content=typed, headers=form)
    ).status_code == 303
    assert [it["body"] for it in (await desk.get("/annotations"))["items"]] == ["The cache is cold"]


# The process


@pytest.fixture(scope="module")
def live(mortal: EmbeddedPostgres) -> Generator[LiveService]:
    with live_service(mortal, "app_template") as running:
        yield running


@pytest.mark.clock("2 s an answer")
def test_a_real_process_serves_old_answers_at_once_and_new_ones_again_without_a_restart(
    live: LiveService, mortal: EmbeddedPostgres
) -> None:
    incident = live.record(severity="HIGH")
    person = live.person("viewer")
    stranger = {"Authorization": f"Bearer {sign_in(live.client, person)}"}
    assert live.client.get("/api/v1/me", headers=stranger).status_code == 200
    for url in urls(incident):
        assert live.client.get(url).status_code == 200
    with away(mortal):
        for url in urls(incident):
            began = time.monotonic()
            assert_stale(live.client.get(url))
            assert time.monotonic() - began < 2
            assert_unavailable(live.client.get(url, headers=stranger))
        assert_unavailable(live.client.post("/api/v1/incidents", json=NEW))
    _wait_until(live, lambda answer: "Age" not in answer.headers)
    live.record(title="After it came back", severity="HIGH")
    for url in urls(incident):
        answer = live.client.get(url)
        assert answer.status_code == 200
        assert "Age" not in answer.headers
        assert "unreachable" not in answer.text
    assert "After it came back" in live.client.get(LIST).text


def test_a_database_that_hangs_is_away_too(live: LiveService, mortal: EmbeddedPostgres) -> None:
    live.record(severity="HIGH")
    assert live.client.get(LIST).status_code == 200
    with frozen(mortal):
        _wait_until(live, lambda answer: "Age" in answer.headers)
        assert_stale(live.client.get(LIST))
    _wait_until(live, lambda answer: "Age" not in answer.headers)


def _wait_until(live: LiveService, is_so: Callable[[httpx2.Response], bool]) -> None:
    """Read the list until an answer is so.

    One that a hanging database holds up may be late, or an error.
    """
    until = time.monotonic() + PATIENCE
    while not is_so(answer := live.client.get(LIST, timeout=PATIENCE)) or answer.status_code != 200:
        assert time.monotonic() < until, answer.text


@NEEDS_CHROMIUM
@pytest.mark.usefixtures("chromiums")
def test_a_reader_sees_when_the_page_was_true_on_a_wide_screen_and_on_a_phone(
    live: LiveService, mortal: EmbeddedPostgres, tmp_path: Path
) -> None:
    incident = live.record(title="Checkout is down", severity="CRITICAL", services=["payments"])
    paths = ("/incidents", f"/incidents/INC-{incident['number']}")
    with chromium() as browser:
        page = browser.new_context(base_url=live.url).new_page()
        page.goto("/signin")
        sign_in_by_form(page, ADMIN)
        for path in paths:
            page.goto(path)
            assert page.locator(".stale").count() == 0
        with away(mortal):
            for path in paths:
                _look(page, path, tmp_path)


def _look(page: Page, path: str, folder: Path) -> None:
    for width in (1280, 320):
        page.set_viewport_size({"width": width, "height": 700})
        answer = page.goto(path)
        assert answer is not None
        assert answer.status == 200
        assert "Checkout is down" in (page.text_content("main") or "")
        said = page.text_content("main .stale") or ""
        assert said.endswith(" UTC. The database is unavailable; nothing can be saved.")
        assert said.startswith("As of ")
        assert page.locator(".stale[role=status]").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CONTRAST)["ratio"] >= 4.5
        page.screenshot(path=folder / f"{path.replace('/', '-')[1:]}-{width}.png")
