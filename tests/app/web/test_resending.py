"""A form that is sent again: what it means counts from when it was first received."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from postfacta_app.errors import MalformedError
from postfacta_app.web.body import format_time, parse_time
from postfacta_app.web.forms import received
from postfacta_core.clock import WALL
from tests.app.desk import Desk, desk_of
from tests.app.live import Service, in_process
from tests.app.screen import Screen, forms_of
from tests.kit.every import every

NOW = datetime(2026, 2, 7, 10, 4, tzinfo=UTC)


def wall() -> datetime:
    return datetime.fromtimestamp(WALL(), UTC)


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    async with in_process(shared_app_dsn) as running:
        yield running


@pytest.fixture
async def desk(service: Service) -> Desk:
    return await desk_of(service)


def test_a_form_counts_from_its_first_receipt_for_a_day() -> None:
    for text in (format_time(NOW - timedelta(hours=24)), format_time(NOW + timedelta(minutes=5))):
        assert received({"received": text}, NOW) == parse_time(text)
    assert received({}, NOW) == NOW
    with every() as case:
        for text in ("2026-02-06T10:03:59Z", "2026-02-07T10:09:01Z", "noon", ""):
            with case(text):
                fields = {"received": text}
                with pytest.raises(MalformedError, match="more than a day ago"):
                    received(fields, NOW)
                assert received(fields, NOW) == NOW


async def sent_while_locked(
    desk: Desk, screen: Screen, page: httpx2.Response, path: str, having: str = "", **typed: str
) -> httpx2.Response:
    """Send a form that cannot be saved, since the incident is locked for too long."""
    async with desk.service.database.transaction():
        await desk.service.database.execute(
            "select from incidents where id = $1 for update", desk.incident["id"]
        )
        return await screen.send(page, path, typed, expect=503, having=having)


@pytest.mark.parametrize("words", ["now", "-2m", "5 min ago"])
async def test_relative_times_of_a_resend_count_from_the_first_receipt(
    desk: Desk, service: Service, words: str
) -> None:
    screen = await Screen.of(service)
    page, path = f"/incidents/{desk.ref}", f"/incidents/{desk.ref}/notes"
    before = wall()
    failed = await sent_while_locked(
        desk, screen, await screen.get(page), path, body="Rolled back", occurred_at=words
    )
    form = next(it for it in forms_of(failed) if it.action == path)
    first = parse_time(form.fields["received"])
    assert before - timedelta(milliseconds=1) <= first <= wall()
    assert f"First sent at {first:%H:%M:%S} UTC" in re.sub("<[^>]+>", "", failed.text)
    # The database was away for 20 minutes.
    outage = timedelta(minutes=20)
    await screen.send(failed, path, received=format_time(first - outage))
    (note,) = (await desk.get("/annotations"))["items"]
    ago = {"now": 0, "-2m": 2, "5 min ago": 5}[words]
    assert parse_time(note["occurred_at"]) == first - outage - timedelta(minutes=ago)


@pytest.mark.parametrize(("words", "minutes"), [("", 0), ("-2m", 2)])
async def test_a_move_that_is_sent_again_counts_from_the_first_receipt(
    desk: Desk, service: Service, words: str, minutes: int
) -> None:
    screen = await Screen.of(service)
    page, path = f"/incidents/{desk.ref}", f"/incidents/{desk.ref}/moves"
    answer = await screen.get(page)
    failed = await sent_while_locked(
        desk, screen, answer, path, having="occurred_at", to="RESOLVED", occurred_at=words
    )
    form = next(it for it in forms_of(failed) if it.action == path and "received" in it.fields)
    first = parse_time(form.fields["received"]) - timedelta(minutes=20)
    declared = {"declared_at": format_time(first - timedelta(hours=1))}
    await service.database.execute(
        "update incidents set declared_at = $2 where id = $1",
        desk.incident["id"],
        parse_time(declared["declared_at"]),
    )
    await screen.send(failed, path, having="received", received=format_time(first))
    assert parse_time((await desk.get())["ended_at"]) == first - timedelta(minutes=minutes)


async def test_a_resend_of_what_was_saved_has_no_second_effect(
    desk: Desk, service: Service
) -> None:
    screen = await Screen.of(service)
    page, path = f"/incidents/{desk.ref}", f"/incidents/{desk.ref}/notes"
    shown = await screen.get(page)
    first = await screen.send(shown, path, body="Rolled back")
    # The page whose outcome was unknown has another mask of its token, and the instant.
    csrf = forms_of(await screen.get(page))[0].fields["csrf"]
    again = await screen.send(
        shown, path, body="Rolled back", csrf=csrf, received=format_time(wall())
    )
    assert again.headers["location"] == first.headers["location"]
    assert len((await desk.get("/annotations"))["items"]) == 1


async def test_a_form_of_the_day_before_is_refused_once(desk: Desk, service: Service) -> None:
    screen = await Screen.of(service)
    page, path = f"/incidents/{desk.ref}", f"/incidents/{desk.ref}/notes"
    old = format_time(wall() - timedelta(hours=25))
    refused = await screen.send(await screen.get(page), path, body="Late", received=old, expect=400)
    assert "first sent more than a day ago" in refused.text
    await screen.send(refused, path)
    assert len((await desk.get("/annotations"))["items"]) == 1


async def test_no_two_pages_show_the_same_token(desk: Desk, service: Service) -> None:
    screen = await Screen.of(service)
    pages = [await screen.get(f"/incidents/{desk.ref}") for _ in range(2)]
    tokens = [{it.fields["csrf"] for it in forms_of(page) if "csrf" in it.fields} for page in pages]
    assert [len(each) for each in tokens] == [1, 1]
    assert not tokens[0] & tokens[1]
    for page in pages:
        await screen.send(page, f"/incidents/{desk.ref}/notes", body="Both are ours")
