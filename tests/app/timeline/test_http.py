"""The API of timelines and edits keeps its promises on a real database."""

from __future__ import annotations

from itertools import product
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from postfacta_app.timeline.rules import RULES
from tests.app.live import Service
from tests.app.timeline.conftest import Body, a_case
from tests.kit.every import every


def signal(identity: str, at: str, **fields: object) -> Body:
    new = {"id": identity, "kind": "note", "occurred_at": f"2026-02-07T{at}Z", "title": identity}
    return {**new, **fields}


async def test_what_happened_comes_in_order_with_moves_and_timed_notes(service: Service) -> None:
    case = await a_case(service)
    await case.signals(
        signal("deploy", "10:00:00", kind="change"),
        signal("recovered", "10:40:00", kind="alert_resolved"),
        signal("firing", "10:05:00", kind="alert_firing", sequence="7", services=["checkout"]),
    )
    await case.post("transitions", {"to": "RESOLVED", "occurred_at": "2026-02-07T10:41:00Z"})
    await case.post(
        "annotations",
        {
            "kind": "note",
            "body": "Rolled back\nby hand",
            "occurred_at": "2026-02-07T12:35:00+02:00",
        },
    )
    await case.post("annotations", {"kind": "note", "body": "No time of its own"})
    timeline = await case.get("timeline")
    assert [(it["title"], it["kind"], it["tie"]) for it in timeline["items"]] == [
        ("deploy", "change", False),
        ("firing", "alert_firing", True),
        ("Declared", "status", True),
        ("Rolled back", "note", False),
        ("recovered", "alert_resolved", False),
        ("Moved to resolved", "status", False),
    ]
    firing = timeline["items"][1]
    told = {
        name: firing[name]
        for name in ("source", "id", "t", "p", "sequence", "services", "pinned", "hidden")
    }
    assert told == {
        "source": case.source, "id": "firing", "t": "2026-02-07T10:05:00.000000Z", "p": "exact", "sequence": "7",
        "services": ["checkout"], "pinned": False, "hidden": False,
    }  # fmt: skip
    assert (timeline["rules"], timeline["milestones"], timeline["next_cursor"]) == (RULES, {}, None)


async def test_corrections_show_and_the_original_stays(service: Service) -> None:
    case = await a_case(service)
    await case.signals(signal("one", "10:00:30", precision="minute"), signal("two", "10:00:10"))
    assert await case.titles() == ["one", "two", "Declared"]
    one = (case.source, "one")
    offset = await case.edit(
        "clock_offset", source=case.source, value={"ms": 60_000}, reason="NTP was off"
    )
    timed = await case.edit(
        "set_time",
        one,
        value={"at": "2026-02-07T11:03:59Z", "precision": "minute"},
        reason="Seen on a photo",
    )
    await case.edit("set_title", one, value={"title": "First"})
    await case.edit("pin", one)
    named = {"name": "impact_started", "at": "2026-02-07T09:59:30Z", "precision": "minute"}
    await case.edit("milestone", value=named)
    timeline = await case.get("timeline")
    assert [(it["title"], it["t"]) for it in timeline["items"]] == [
        ("two", "2026-02-07T10:01:10.000000Z"),
        ("Declared", "2026-02-07T10:05:00.000000Z"),
        ("First", "2026-02-07T11:03:00.000000Z"),
    ]
    entry = timeline["items"][-1]
    assert (entry["occurred_at"], entry["original_title"]) == ("2026-02-07T10:00:30.000000Z", "one")
    assert (entry["p"], entry["original_precision"], entry["pinned"]) == ("minute", "minute", True)
    assert timeline["milestones"] == {
        "impact_started": {"t": "2026-02-07T09:59:00.000000Z", "p": "minute"}
    }
    log = (await case.get("edits"))["items"]
    assert [it["op"] for it in log] == [
        "attach",
        "attach",
        "clock_offset",
        "set_time",
        "set_title",
        "pin",
        "milestone",
    ]
    assert [log[2], log[3]] == [offset["edit"], timed["edit"]]
    assert (log[3]["reason"], log[3]["entry"]) == (
        "Seen on a photo",
        {"source": case.source, "id": "one"},
    )
    assert all(it["actor"].startswith("user:") for it in log)


async def test_the_answer_to_an_edit_has_the_digest_that_follows(service: Service) -> None:
    case = await a_case(service)
    await case.signals(signal("one", "10:00:00"))
    before = (await case.get("timeline"))["digest"]
    after = (await case.edit("hide", (case.source, "one"), reason="Twice"))["digest"]
    assert before != after == (await case.get("timeline"))["digest"]
    assert (await case.edit("unhide", (case.source, "one")))["digest"] == before


async def test_hidden_entries_are_shown_to_who_asks_and_filters_leave_the_digest(
    service: Service,
) -> None:
    case = await a_case(service)
    await case.signals(signal("one", "10:00:00"), signal("two", "10:01:00", kind="change"))
    await case.edit("hide", (case.source, "one"), reason="Noise")
    await case.edit("pin", (case.source, "two"))
    assert await case.titles() == ["two", "Declared"]
    assert await case.titles("?include_hidden=true") == ["one", "two", "Declared"]
    whole = (await case.get("timeline"))["digest"]
    for query, expected in {
        "kind=change&kind=status": ["two", "Declared"],
        "source=postfacta": ["Declared"],
        "pinned=true": ["two"],
        "pinned=false&kind=change": [],
    }.items():
        page = await case.get(f"timeline?{query}")
        assert [it["title"] for it in page["items"]] == expected
        assert page["digest"] == whole


async def test_pages_lead_through_the_timeline_and_a_cursor_fits_one_alone(
    service: Service,
) -> None:
    case, other = await a_case(service), await a_case(service)
    await case.signals(*(signal(f"ties {n}é", "10:00:00") for n in range(5)))
    seen: list[str] = []
    cursor, path = "", "timeline?limit=2"
    while True:
        page = await case.get(f"{path}{cursor}")
        seen += [it["title"] for it in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={quote(page['next_cursor'])}"
    assert seen == [*(f"ties {n}é" for n in range(5)), "Declared"]
    first = await case.send("GET", path)
    follow = f"&cursor={first.json()['next_cursor']}"
    assert f"{path}{follow}" in first.headers["link"]
    for wrong in (
        f"timeline?limit=2&kind=note{follow}",
        f"timeline?cursor={follow[8:-4]}AAAA",
        "timeline?cursor=WzFd",
    ):
        assert (await case.send("GET", wrong)).json()["type"] == "/problems/invalid-cursor"
    assert (await case.send("GET", f"{other.path}/{path}{follow}")).status_code == 400


async def test_a_past_view_stays_equal_whatever_is_written_later(service: Service) -> None:
    case = await a_case(service)
    await case.signals(
        signal("one", "10:00:00", known_at="2026-02-07T10:30:00Z"), signal("two", "10:20:00")
    )
    await case.edit("set_title", (case.source, "two"), value={"title": "second"})
    note = await case.post(
        "annotations", {"kind": "note", "body": "Yes", "occurred_at": "2026-02-07T10:02:00Z"}
    )
    seen_at = await service.database.fetchval(
        "select timeline_at from incidents where id = $1", case.id
    )
    past = f"timeline?as_of={quote(seen_at.isoformat())}"
    before = await case.send("GET", past)
    assert before.json() == await case.get("timeline")
    await case.signals(signal("late", "09:00:00"))
    await case.edit("hide", (case.source, "one"), reason="Noise")
    await case.edit("clock_offset", source=case.source, value={"ms": -5000}, reason="Slow")
    await case.send(
        "PUT", f"/api/v1/annotations/{note['id']}", {"body": "No"}, headers={"If-Match": '"ann-1"'}
    )
    await case.post("transitions", {"to": "CLOSED", "outcome": "fixed"})
    assert (await case.send("GET", past)).content == before.content
    assert (await case.get("timeline"))["digest"] != before.json()["digest"]
    early = f"timeline?as_of={quote(seen_at.isoformat())}&known_as_of="
    assert [it["title"] for it in (await case.get(early + "2026-02-07T10:20:00Z"))["items"]] == [
        "Yes",
        "Declared",
        "second",
    ]


async def test_304_is_the_answer_exactly_when_the_body_would_be_equal(service: Service) -> None:
    case = await a_case(service)
    first = signal("one", "10:00:00")
    await case.signals(first, signal("two", "10:01:00"))
    note = await case.post(
        "annotations",
        {"kind": "note", "body": "Beneath", "entry": {"source": case.source, "id": "one"}},
    )
    steps: list[Any] = [
        lambda: case.signals(first),  # a duplicate
        lambda: case.post("annotations", {"kind": "note", "body": "No time"}),
        lambda: case.send(
            "PUT",
            f"/api/v1/annotations/{note['id']}",
            {"body": "Else"},
            headers={"If-Match": '"ann-1"'},
        ),
        lambda: case.edit("pin", ("nobody", "nothing")),
        lambda: case.edit("pin", (case.source, "one")),
        lambda: case.edit("pin", (case.source, "one")),
        lambda: case.signals(signal("one", "10:00:00", title="another content")),
        lambda: case.edit("set_title", (case.source, "two"), value={"title": "two"}),
        lambda: case.edit("milestone", value={"name": "detected", "at": "2026-02-07T10:00:00Z"}),
        lambda: case.edit("milestone", value={"name": "detected", "at": None}),
        lambda: case.edit("hide", (case.source, "two"), reason="Noise"),
        lambda: case.post(
            "annotations", {"kind": "note", "body": "Timed", "occurred_at": "2026-02-07T10:00:00Z"}
        ),
    ]
    kept, known, whole = 0, dict[str, str](), await case.send("GET", "timeline")
    for step in steps:
        for query in ("?include_hidden=true", "?kind=change", ""):
            whole = await case.send("GET", f"timeline{query}")
            known = {"If-None-Match": whole.headers["etag"]}
            assert (await case.send("GET", f"timeline{query}", headers=known)).status_code == 304
        await step()
        again = await case.send("GET", "timeline", headers=known)
        now = await case.send("GET", "timeline")
        assert (again.status_code == 304) == (now.content == whole.content)
        assert again.headers["etag"] == now.headers["etag"]
        kept += again.status_code == 304
    assert 0 < kept < len(steps)


async def test_a_conflict_is_counted_beside_the_digest(service: Service) -> None:
    case = await a_case(service)
    await case.signals(signal("one", "10:00:00"))
    before = await case.send("GET", "timeline")
    await case.signals(signal("one", "10:00:00", title="another content"))
    after = await case.send("GET", "timeline")
    assert before.json()["digest"] == after.json()["digest"]
    assert [it["conflicts"] for it in after.json()["items"]] == [1, 0]
    assert (before.headers["etag"][-2:], after.headers["etag"][-2:]) == ('0"', '1"')


async def test_stamps_grow_with_the_timeline_an_hour_ahead(service: Service) -> None:
    case = await a_case(service)
    ahead = "update incidents set timeline_at = now() + interval '1 hour' where id = $1 returning timeline_at"
    stamp = await service.database.fetchval(ahead, case.id)
    one = ("nobody", "nothing")
    for write in (
        case.edit("pin", one),
        case.edit("unpin", one),
        case.post("annotations", {"kind": "note", "body": "x"}),
    ):
        await write
        now = await service.database.fetchval(
            "select timeline_at from incidents where id = $1", case.id
        )
        assert now > stamp
        stamp = now
    times = await service.database.fetch(
        "select at from edits where incident_id = $1 order by at", case.id
    )
    assert times[0]["at"] < times[1]["at"]


async def test_facts_cannot_be_changed_or_taken_away(service: Service) -> None:
    incident = await a_case(service)
    await incident.edit("pin", ("nobody", "nothing"))
    await incident.post("annotations", {"kind": "note", "body": "Said"})
    changes = ("update {} set at = now()", "delete from {}", "truncate {} cascade")
    with every() as case:
        for change, table in product(changes, ("edits", "annotations", "status_changes")):
            statement = change.format(table)
            with (
                case(statement),
                pytest.raises(asyncpg.RestrictViolationError, match="append-only"),
            ):
                await service.database.execute(statement)


BAD: list[tuple[Body, str]] = [
    ({}, "/op"),
    ({"op": "explode"}, "/op"),
    ({"op": "pin"}, "/entry"),
    ({"op": "pin", "entry": {"source": "", "id": "x"}}, "/entry/source"),
    ({"op": "pin", "entry": {"source": "a", "id": "x" * 301}}, "/entry/id"),
    ({"op": "pin", "entry": {"source": "a", "id": "b"}, "value": {}}, "/value"),
    ({"op": "hide", "entry": {"source": "a", "id": "b"}}, "/reason"),
    ({"op": "set_time", "entry": {"source": "a", "id": "b"}, "value": None}, "/reason"),
    ({"op": "set_time", "entry": {"source": "a", "id": "b"}, "reason": "r"}, "/value"),
    (
        {
            "op": "set_time",
            "entry": {"source": "a", "id": "b"},
            "reason": "r",
            "value": {"at": "noon"},
        },
        "/value/at",
    ),
    (
        {
            "op": "set_time",
            "entry": {"source": "a", "id": "b"},
            "reason": "r",
            "value": {"at": "2100-01-01T00:00:00Z"},
        },
        "/value/at",
    ),
    (
        {"op": "set_title", "entry": {"source": "a", "id": "b"}, "value": {"title": ""}},
        "/value/title",
    ),
    (
        {"op": "clock_offset", "source": "a", "reason": "r", "value": {"ms": 86_400_001}},
        "/value/ms",
    ),
    ({"op": "clock_offset", "source": "a", "reason": "r", "value": {"ms": 1.5}}, "/value/ms"),
    ({"op": "clock_offset", "source": "a", "value": {"ms": 1}}, "/reason"),
    ({"op": "milestone", "value": {"name": "panic", "at": None}}, "/value/name"),
    ({"op": "milestone", "value": {"name": "detected"}}, "/value/at"),
    ({"op": "milestone", "value": {"name": "detected", "at": None}, "source": "a"}, "/source"),
]


async def test_a_bad_edit_is_refused_and_its_field_named(service: Service) -> None:
    incident = await a_case(service)
    with every() as case:
        for body, pointer in BAD:
            with case(pointer, body):
                before = await service.rows()
                answer = await incident.send("POST", "edits", body)
                assert answer.status_code == 422, answer.text
                assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
                assert await service.rows() == before


@pytest.mark.parametrize("op", ["attach", "detach"])
async def test_to_attach_is_no_edit_to_send_and_the_answer_names_the_route(
    service: Service, op: str
) -> None:
    answer = await (await a_case(service)).send("POST", "edits", {"op": op, "signal_id": "x"})
    assert answer.status_code == 422
    told = answer.json()["errors"][0]
    assert (told["pointer"], "/api/v1/incidents/{ref}/signals" in told["message"]) == ("/op", True)


async def test_an_archived_incident_takes_no_edits_and_no_remarks(service: Service) -> None:
    case = await a_case(service, kind="exercise")
    await case.send("DELETE", case.path, headers={"If-Match": "*"})
    bodies = {
        "edits": {"op": "pin", "entry": {"source": "a", "id": "b"}},
        "annotations": {"kind": "note", "body": "x"},
    }
    for path, body in bodies.items():
        assert (await case.send("POST", path, body)).status_code == 409


async def test_an_edit_is_written_once_under_its_key_and_leaves_an_audit_row(
    service: Service,
) -> None:
    case = await a_case(service)
    body = {"op": "pin", "entry": {"source": "a", "id": "b"}}
    answers = [
        await case.send("POST", "edits", body, headers={"Idempotency-Key": "twice"})
        for _ in range(2)
    ]
    assert answers[0].content == answers[1].content
    assert len((await case.get("edits"))["items"]) == 1
    audit = (
        "select actor, object from audit_log where action = 'timeline.edit' and incident_id = $1"
    )
    rows = await service.database.fetch(audit, case.id)
    assert [tuple(row) for row in rows] == [
        (answers[0].json()["edit"]["actor"], f"INC-{case.number}")
    ]


async def test_edits_come_in_pages(service: Service) -> None:
    case = await a_case(service)
    made = [(await case.edit("pin", ("a", str(n))))["edit"] for n in range(5)]
    first = await case.get("edits?limit=3")
    rest = await case.get(f"edits?limit=3&cursor={first['next_cursor']}")
    assert first["items"] + rest["items"] == made
    assert rest["next_cursor"] is None
