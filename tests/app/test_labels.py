"""Labels of incidents.

Set as a whole, shown and edited on the page, a filter of the lists, and private with their
incident.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, StorageState

from tests.app.browsing import NEEDS_CHROMIUM
from tests.app.desk import Desk, desk_of
from tests.app.live import Service, in_process
from tests.app.running import LiveService
from tests.app.screen import forms_of
from tests.kit.waiting import wait_until

ANY = {"If-Match": "*"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    async with in_process(shared_app_dsn) as running:
        yield running


@pytest.fixture
async def desk(service: Service) -> Desk:
    return await desk_of(service)


async def put(desk: Desk, *labels: str, expect: int = 200, etag: str = "*") -> list[str]:
    answer = await desk.send(
        "PUT", "/labels", expect=expect, json={"labels": labels}, headers={"If-Match": etag}
    )
    found: list[str] = answer.json().get("labels", [])
    return found


async def listed(desk: Desk, *labels: str) -> list[str]:
    query = urlencode([("label", it) for it in labels])
    items = (await desk.send("GET", f"/api/v1/incidents?{query}", expect=200)).json()["items"]
    return [f"INC-{it['number']}" for it in items]


async def test_labels_are_replaced_as_a_whole_and_sorted(desk: Desk) -> None:
    assert (await desk.get("/labels"))["labels"] == []
    assert await put(desk, "dns", "2026", "a-b", "dns") == ["2026", "a-b", "dns"]
    assert (
        await put(desk, "dns", "late") == ["dns", "late"] == (await desk.get("/labels"))["labels"]
    )
    assert await put(desk) == [] == (await desk.get("/labels"))["labels"]


async def test_a_change_is_audited_and_the_same_again_writes_nothing(
    service: Service, desk: Desk
) -> None:
    pulled = (await desk.get())["version"]
    await put(desk, "dns")
    before = await service.rows()
    assert await put(desk, "dns") == ["dns"]
    assert await service.rows() == before
    details = await service.database.fetch(
        "select detail::text from audit_log where object = $1 and action = 'labels.change'",
        desk.ref,
    )
    assert [row[0] for row in details] == ['{"labels": [[], ["dns"]]}']
    assert (await desk.get())["version"] == pulled


async def test_who_did_not_see_the_last_labels_changes_nothing(desk: Desk) -> None:
    first = (await desk.send("GET", "/labels", expect=200)).headers["ETag"]
    await desk.send("GET", "/labels", expect=304, headers={"If-None-Match": first})
    await put(desk, "dns", etag=first)
    await put(desk, "late", etag=first, expect=412)
    await desk.send("PUT", "/labels", expect=428, json={"labels": ["late"]})
    assert (await desk.get("/labels"))["labels"] == ["dns"]


@pytest.mark.parametrize("label", ["", "Upper", "-a", "a b", "a_b", "a\n", "x" * 40])
async def test_what_is_no_short_word_is_refused(desk: Desk, label: str) -> None:
    await put(desk, "fine", label, expect=422)
    assert (await desk.get("/labels"))["labels"] == []


async def test_an_incident_has_at_most_twenty_labels(desk: Desk) -> None:
    many = [f"l{n:02}" for n in range(20)]
    assert await put(desk, *many) == many
    await put(desk, *many, "more", expect=422)
    assert await put(desk, "x" * 39) == ["x" * 39]


async def test_an_archived_incident_keeps_its_labels(service: Service, desk: Desk) -> None:
    await put(desk, "dns")
    boss = desk.seen_by(await service.as_role("admin"))
    await boss.send("DELETE", expect=204, headers=ANY)
    await put(desk, "late", expect=409)


async def test_lists_select_incidents_with_any_of_the_labels(service: Service) -> None:
    one, two, three = [await desk_of(service) for _ in range(3)]
    await put(one, "select-a")
    await put(two, "select-a", "select-b")
    await put(three, "select-c")
    assert await listed(one, "select-a") == [two.ref, one.ref]
    assert await listed(one, "select-b", "select-c") == [three.ref, two.ref]
    assert await listed(one, "select") == []
    shown = await service.client.get("/incidents?label=select-b", headers=one.headers)
    assert (two.ref in shown.text, one.ref in shown.text) == (True, False)


async def test_the_page_shows_labels_and_its_form_sets_them(service: Service, desk: Desk) -> None:
    await put(desk, "dns")
    path = f"/incidents/{desk.ref}"
    page = await service.client.get(path, headers=desk.headers)
    assert 'href="/incidents?label=dns"' in page.text
    form = next(it for it in forms_of(page) if it.action == f"{path}/labels")
    assert form.fields["labels"] == "dns"
    for typed, expected in (("late, dns\nnew", ["dns", "late", "new"]), (" ", [])):
        page = await service.client.get(path, headers=desk.headers)
        form = next(it for it in forms_of(page) if it.action == f"{path}/labels")
        sent = await service.client.post(
            form.action,
            content=urlencode(form.fields | {"labels": typed}),
            headers=desk.headers | FORM,
        )
        assert (sent.status_code, sent.headers["Location"]) == (303, path)
        assert (await desk.get("/labels"))["labels"] == expected


async def test_a_form_that_is_refused_keeps_what_was_typed(service: Service, desk: Desk) -> None:
    path = f"/incidents/{desk.ref}"
    page = await service.client.get(path, headers=desk.headers)
    form = next(it for it in forms_of(page) if it.action == f"{path}/labels")
    for typed, status in (("No Label", 422), ("stale", 412)):
        sent = await service.client.post(
            form.action,
            content=urlencode(form.fields | {"labels": typed}),
            headers=desk.headers | FORM,
        )
        assert sent.status_code == status
        assert f'value="{typed}"' in sent.text
        await put(desk, "meanwhile")


async def test_a_reader_sees_labels_without_a_form(service: Service, desk: Desk) -> None:
    await put(desk, "dns")
    page = await service.client.get(
        f"/incidents/{desk.ref}", headers=await service.as_role("viewer")
    )
    assert 'href="/incidents?label=dns"' in page.text
    assert not any(it.action.endswith("/labels") for it in forms_of(page))


@NEEDS_CHROMIUM
def test_labels_are_set_on_a_telephone_without_javascript(
    browser: Browser, live: LiveService, session: StorageState
) -> None:
    number = live.record()["number"]
    context = browser.new_context(
        base_url=live.url,
        viewport={"width": 320, "height": 700},
        java_script_enabled=False,
        storage_state=session,
    )
    page = context.new_page()
    # A busy machine may shed the first request: then a person loads the page again.
    wait_until(
        lambda: (answer := page.goto(f"/incidents/INC-{number}")) and answer.ok,
        "the page is refused",
    )
    page.get_by_text("Labels…").click()
    page.get_by_label("Labels", exact=True).fill(f"x{'-telephone' * 3}, dns")
    page.get_by_role("button", name="Save labels").click()
    page.get_by_role("link", name="dns", exact=True).click()
    assert page.locator("tbody tr").count() == 1
    assert page.get_by_label("Label", exact=True).input_value() == "dns"
    context.close()
