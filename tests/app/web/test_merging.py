"""Two people with the same form: what each changed is kept, and what both changed is refused once."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from postfacta_app.web.merging import merge
from tests.app.desk import Desk, desk_of
from tests.app.live import Service, in_process
from tests.app.screen import Screen, forms_of
from tests.kit.every import every


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    async with in_process(shared_app_dsn) as running:
        yield running


@pytest.fixture
async def desk(service: Service) -> Desk:
    return await desk_of(service)


# was, typed, now: what is written, and whether it is refused
MERGES: list[tuple[str, str, str, str | None, bool]] = [
    ("a", "a", "a", None, False),
    ("a", "b", "a", "b", False),
    ("a", "a", "b", None, False),
    ("a", "b", "b", None, False),
    ("a", "b", "c", None, True),
    ("a", "", "a", "", False),
    ("a", " a\n", "b", None, False),
    ("a\r\nb", "a\nb", "c", None, False),
    ("", "b", "c", None, True),
]


def test_only_what_both_changed_to_other_values_is_refused() -> None:
    with every() as case:
        for was, typed, now, written, is_refused in MERGES:
            with case(was, typed, now):
                sent, clashes = merge({"x": was}, {"x": typed}, {"x": now})
                assert sent.get("x") == written
                assert (clashes == ["x"]) is is_refused


def test_a_field_that_is_not_sent_stays() -> None:
    assert merge({}, {}, {"x": "now"}) == ({}, [])


async def test_two_who_edit_different_fields_of_an_incident_keep_both(
    service: Service, desk: Desk
) -> None:
    ada, grace = await Screen.of(service), await Screen.of(service)
    path = f"/incidents/{desk.ref}/edit"
    mine, hers = await ada.get(path), await grace.get(path)
    await grace.send(hers, path, severity="LOW", services="search")
    await ada.send(mine, path, title="Checkout fails", owner="Ada")
    item = await desk.get()
    assert (item["title"], item["owner"]) == ("Checkout fails", "Ada")
    assert (item["severity"], item["services"]) == ("LOW", ["search"])


async def test_the_same_field_is_refused_once_with_the_others_value(
    service: Service, desk: Desk
) -> None:
    ada, grace = await Screen.of(service), await Screen.of(service)
    path = f"/incidents/{desk.ref}/edit"
    mine = await ada.get(path)
    await grace.send(await grace.get(path), path, severity="MEDIUM", teams="payments")
    refused = await ada.send(mine, path, severity="LOW", title="Checkout fails", expect=412)
    name, at = await last_change(service, desk.ref)
    assert f"Now: Medium ({name}, {at})" in refused.text
    assert 'href="#f-severity"' in refused.text
    form = next(it for it in forms_of(refused) if it.action == path)
    # What is mine is still there, and what is hers is shown.
    assert (form.fields["severity"], form.fields["title"]) == ("LOW", "Checkout fails")
    assert form.fields["teams"] == "payments"
    await ada.send(refused, path)
    item = await desk.get()
    assert (item["severity"], item["title"]) == ("LOW", "Checkout fails")
    assert item["teams"] == ["payments"]


async def last_change(service: Service, of: str) -> tuple[str, str]:
    """Return who changed an object last, and when, as the pages show it."""
    rows = await service.database.fetch(
        "select u.display_name, a.at from audit_log a join users u on a.actor = 'user:' || u.id"
        " where a.object = $1 order by a.seq desc limit 1",
        of,
    )
    return rows[0][0], f"{rows[0][1]:%H:%M}"


async def test_labels_that_both_changed_are_refused_once(service: Service, desk: Desk) -> None:
    ada, grace = await Screen.of(service), await Screen.of(service)
    page, path = f"/incidents/{desk.ref}", f"/incidents/{desk.ref}/labels"
    mine = await ada.get(page)
    await grace.send(await grace.get(page), path, labels="dns, late")
    refused = await ada.send(mine, path, labels="tls", expect=412)
    name, at = await last_change(service, desk.ref)
    assert f"now: dns, late ({name}, {at})" in refused.text
    await ada.send(refused, path, labels="dns, tls")
    assert (await desk.get("/labels"))["labels"] == ["dns", "tls"]


async def test_an_action_keeps_what_two_people_changed(service: Service, desk: Desk) -> None:
    ada, grace = await Screen.of(service), await Screen.of(service)
    made = await desk.add_action()
    page = f"/incidents/{desk.ref}/actions"
    one = f"{page}/{made['id']}"
    mine = await ada.get(page)
    hers = await grace.get(page)
    await grace.send(await grace.get(page), one, having="due_on", due_on="2026-03-01")
    await ada.send(mine, one, having="due_on", owner="Ada")
    await ada.send(mine, one, having="status", status="in_progress")
    (item,) = (await desk.get("/action-items"))["items"]
    assert (item["owner"], item["due_on"], item["status"]) == ("Ada", "2026-03-01", "in_progress")
    refused = await grace.send(hers, one, having="due_on", owner="Grace", expect=412)
    name, at = await last_change(service, f"action:{made['id']}")
    # The last change of the item was that of its status, by the same person.
    assert f"Now: Ada ({name}, {at})" in refused.text
    await grace.send(refused, one, having="due_on")
    assert (await desk.get("/action-items"))["items"][0]["owner"] == "Grace"


async def test_a_status_that_another_set_is_shown(service: Service, desk: Desk) -> None:
    screen = await Screen.of(service)
    made = await desk.add_action()
    page = f"/incidents/{desk.ref}/actions"
    one = f"{page}/{made['id']}"
    pages = [await screen.get(page) for _ in range(3)]
    for open_page in pages[:2]:
        await screen.send(open_page, one, having="status", status="done")
    refused = await screen.send(pages[2], one, having="status", status="in_progress", expect=412)
    assert "now: Done (" in refused.text
    assert f'id="f-status-{made["id"]}"' in refused.text


async def test_a_note_that_was_changed_is_shown_beside_the_form(
    service: Service, desk: Desk
) -> None:
    screen, admin = await Screen.of(service), await Screen.of(service, "admin")
    page = f"/incidents/{desk.ref}"
    await screen.send(await screen.get(page), f"{page}/notes", body="In short")
    root = (await desk.get("/annotations"))["items"][0]["id"]
    one = f"{page}/notes/{root}"
    mine = await screen.get(page)
    await admin.send(await admin.get(page), one, body="Put right")
    name, at = await last_change(service, desk.ref)
    kept = await screen.send(mine, one, op="retract", reason="Wrong", expect=412)
    refused = await screen.send(mine, one, body="In my words", expect=412)
    for page_again in (kept, refused):
        assert f"now: Put right ({name}, {at})" in page_again.text
    await screen.send(refused, one)
    assert (await desk.get("/annotations"))["items"][0]["body"] == "In my words"


async def test_a_role_and_a_disabled_account_are_two_fields(service: Service) -> None:
    admin = await Screen.of(service, "admin")
    person = await service.person("viewer")
    path = f"/people/{person}"
    mine, late = await admin.get(path), await admin.get(path)
    await admin.send(await admin.get(path), path, having="disabled")
    await admin.send(mine, path, having="role", role="responder")
    refused = await admin.send(late, path, having="role", role="admin", expect=412)
    assert "Now: Responder (" in refused.text
    await admin.send(refused, path, having="role")
    shown = await admin.get(path)
    assert "This account cannot sign in." in shown.text
    assert "<dd>Admin</dd>" in shown.text


async def test_two_who_edit_different_fields_of_a_section_keep_both(
    service: Service, desk: Desk
) -> None:
    ada, grace = await Screen.of(service), await Screen.of(service)
    path = f"/incidents/{desk.ref}/postmortem/edit/detection"
    await ada.send(await ada.get(path), path, detection__how="A customer called.")
    mine, hers, late = await ada.get(path), await grace.get(path), await grace.get(path)
    await grace.send(hers, path, detection__could_be_sooner="Yes.")
    await ada.send(mine, path, detection__how="Two customers called.")
    content = (await desk.get("/postmortem"))["content"]
    assert content["detection"] == {"how": "Two customers called.", "could_be_sooner": "Yes."}
    refused = await grace.send(late, path, detection__how="We saw it.", expect=412)
    assert "Now: Two customers called. (" in refused.text
    await grace.send(refused, path)
    content = (await desk.get("/postmortem"))["content"]
    assert content["detection"] == {"how": "We saw it.", "could_be_sooner": "Yes."}
