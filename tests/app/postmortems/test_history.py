"""The history of an incident.

One list of what people did, complete, and the audit log for administrators alone.
"""

from __future__ import annotations

import re

from tests.app.desk import FULL, Desk
from tests.app.live import Service
from tests.app.screen import Screen


async def _busy(desk: Desk) -> None:
    entry = {"source": "ci", "id": "7"}
    for body in (
        {"op": "pin", "entry": entry},
        {"op": "hide", "entry": entry, "reason": "Not ours"},
        {"op": "set_title", "entry": entry, "value": {"title": "A deploy"}},
        {"op": "set_time", "entry": entry, "value": {"at": "2026-02-07T10:00:00Z", "precision": "minute"}, "reason": "The log says so"},
        {"op": "set_time", "entry": entry, "value": None, "reason": "It did not"},
        {"op": "clock_offset", "source": "ci", "value": {"ms": 1500}, "reason": "Its clock was late"},
        {"op": "milestone", "value": {"name": "detected", "at": "2026-02-07T10:00:00Z"}},
    ):  # fmt: skip
        await desk.send("POST", "/edits", expect=201, json=body)
    items = [
        {"source": "x", "id": f"{desk.ref}-{n}", "kind": "note", "title": "Seen", "occurred_at": "2026-02-07T10:00:00Z"}
        for n in range(3)
    ]  # fmt: skip
    sent = {"incident": desk.incident["id"], "items": items}
    await desk.send("POST", "/api/v1/signals", expect=200, json=sent)
    await desk.write(0, FULL, expect=201, message="First thoughts")


async def test_edits_and_revisions_have_descriptions_and_names(
    desk: Desk, service: Service
) -> None:
    await _busy(desk)
    page = (await (await Screen.of(service)).get(f"/incidents/{desk.ref}/history")).text
    told = [
        "Wrote revision 1, draft",
        "Attached 3 signals",
        "Set the milestone “detected” to 2026-02-07 10:00:00<",
        "Shifted the clock of ci by +1.5 s",
        "Set the time of ci 7 to the time of its source",
        "Set the time of ci 7 to 2026-02-07 10:00<",
        "Renamed ci 7 to “A deploy”",
        "Hid ci 7",
        "Pinned ci 7",
    ]
    assert all(words in page for words in told), page
    assert [page.index(words) for words in told] == sorted(page.index(words) for words in told)
    assert "First thoughts" in page
    assert "Responder" in page
    assert "postmortem.write" not in page


async def test_the_audit_log_is_for_administrators_alone(desk: Desk, service: Service) -> None:
    await _busy(desk)
    await desk.send("PATCH", expect=200, json={"title": "Another title"}, headers={"If-Match": "*"})
    path = f"/incidents/{desk.ref}/history"
    for role, sees in (("viewer", False), ("responder", False), ("admin", True)):
        page = (await (await Screen.of(service, role)).get(path)).text
        assert ("incident.change INC-" in page) == sees
        # What the list has in words is there once.
        assert not re.search(
            r"(postmortem\.write|incident\.create|signal\.attach|timeline\.edit) ", page
        )
        assert page.count("Pinned ci 7") == page.count("Attached 3 signals") == 1
        assert page.count(">Declared<") == 1
    # What a viewer may not read of the post-mortem is not told here either.
    assert "First thoughts" not in (await (await Screen.of(service, "viewer")).get(path)).text


async def test_a_history_that_is_long_goes_on(desk: Desk, service: Service) -> None:
    for n in range(205):
        body = {
            "op": "set_title",
            "entry": {"source": "ci", "id": "7"},
            "value": {"title": f"Title {n:03}"},
        }
        await desk.send("POST", "/edits", expect=201, json=body)
    screen = await Screen.of(service)
    page = await screen.get(f"/incidents/{desk.ref}/history")
    older = page.text.partition('class="pager"><a href="')[2].partition('"')[0]
    rest = await screen.get(older)
    seen = [f"Title {n:03}" in text for n in range(205) for text in (page.text + rest.text,)]
    assert all(seen)
    assert "Title 000" not in page.text
    await screen.get(f"/incidents/{desk.ref}/history?cursor=nonsense", expect=400)


async def test_signals_attached_at_once_are_one_event_and_older_events_follow(
    desk: Desk, service: Service
) -> None:
    await desk.send(
        "POST", "/edits", expect=201, json={"op": "pin", "entry": {"source": "ci", "id": "7"}}
    )
    items = [
        {"source": "x", "id": f"{desk.ref}-{n}", "kind": "note", "title": "Seen"}
        for n in range(250)
    ]
    await desk.send(
        "POST",
        "/api/v1/signals",
        expect=200,
        json={"incident": desk.incident["id"], "items": items},
    )
    page = await (await Screen.of(service)).get(f"/incidents/{desk.ref}/history")
    assert "Attached 250 signals" in page.text
    assert "Pinned ci 7" in page.text


async def test_events_of_one_instant_are_on_one_page_or_the_next(
    desk: Desk, service: Service
) -> None:
    await service.database.execute(
        "insert into edits (id, incident_id, at, op, source, external_id, actor) select gen_random_uuid(), $1, now(), 'pin',"
        " 'ci', lpad(n::text, 3, '0'), 'test' from generate_series(1, 450) n",
        desk.incident["id"],
    )
    screen, path, seen = await Screen.of(service), f"/incidents/{desk.ref}/history", list[str]()
    while path:
        page = await screen.get(path)
        seen += re.findall(r"Pinned ci (\d+)", page.text)
        path = page.text.partition('class="pager"><a href="')[2].partition('"')[0]
    assert sorted(seen) == [f"{n:03}" for n in range(1, 451)]
