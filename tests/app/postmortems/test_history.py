"""The history of an incident: one list of what people did, complete, and the audit log for administrators alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, strategies as st

from postfacta_app.postmortems.history import Event, Source, merge
from tests.app.desk import FULL, Desk
from tests.app.live import Service
from tests.app.screen import Screen

START = datetime(2026, 2, 7, tzinfo=UTC)


def _take(minutes: list[int], kind: str, before: datetime | None, most: int) -> Source:
    """Read as the page does: the newest before a moment, and whether there are more."""
    events = [
        Event(at=START + timedelta(minutes=it), actor="user:1", kind=kind, what=str(it)) for it in minutes
    ]
    events = sorted(
        (it for it in events if before is None or it.at < before), key=lambda it: it.at, reverse=True
    )
    return Source(events[:most], events[most - 1].at if len(events) >= most else None)


@given(
    st.lists(st.integers(0, 500), max_size=30, unique=True),
    st.lists(st.integers(0, 500), max_size=30, unique=True),
    st.integers(2, 6),
)
def test_going_through_the_pages_meets_each_event_once_newest_first(
    edits: list[int], audit: list[int], most: int
) -> None:
    seen: list[Event] = []
    before: datetime | None = None
    while True:
        events, before = merge([_take(edits, "timeline", before, most), _take(audit, "audit", before, most)])
        seen += events
        if before is None:
            break
    assert [it.at for it in seen] == sorted((it.at for it in seen), reverse=True)
    assert sorted((it.kind, int(it.what)) for it in seen) == sorted(
        [("timeline", it) for it in edits] + [("audit", it) for it in audit]
    )


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


async def test_edits_and_revisions_have_descriptions_and_names(desk: Desk, service: Service) -> None:
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
    path = f"/incidents/{desk.ref}/history"
    for role, sees in (("viewer", False), ("responder", False), ("admin", True)):
        page = (await (await Screen.of(service, role)).get(path)).text
        assert ("postmortem.write" in page) == sees
        assert ("incident.create" in page) == sees
        assert ("signal.attach INC-" in page and ", signals: 3<" in page) == sees
    # What a viewer may not read of the post-mortem is not told here either.
    assert "First thoughts" not in (await (await Screen.of(service, "viewer")).get(path)).text


async def test_a_history_that_is_long_goes_on(desk: Desk, service: Service) -> None:
    for n in range(205):
        body = {"op": "set_title", "entry": {"source": "ci", "id": "7"}, "value": {"title": f"Title {n:03}"}}
        await desk.send("POST", "/edits", expect=201, json=body)
    screen = await Screen.of(service)
    page = await screen.get(f"/incidents/{desk.ref}/history")
    older = page.text.partition('class="pager"><a href="')[2].partition('"')[0]
    rest = await screen.get(older)
    seen = [f"Title {n:03}" in text for n in range(205) for text in (page.text + rest.text,)]
    assert all(seen)
    assert "Title 000" not in page.text
    await screen.get(f"/incidents/{desk.ref}/history?cursor=nonsense", expect=400)


async def test_an_empty_history_says_so(desk: Desk, service: Service) -> None:
    page = await (await Screen.of(service)).get(f"/incidents/{desk.ref}/history")
    assert "No changes yet." in page.text
