"""Action items belong to their incident, can be listed and filtered, and need a reason to be closed as won't do."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import httpx2
import pytest
from hypothesis import given, strategies as st

from postfacta_app.actions import Action, ActionChange, ActionStatus, ActionType, change
from postfacta_app.errors import InvalidFieldsError
from tests.app.desk import Desk, desk_of
from tests.app.live import Body, Service

NOW = datetime(2026, 2, 7, 10, tzinfo=UTC)
THEN = datetime(2026, 2, 6, 10, tzinfo=UTC)
CLOSED = {"done", "wont_do"}


async def patch(
    desk: Desk, action: Body, *, expect: int = 200, **fields: object
) -> httpx2.Response:
    headers = {"If-Match": f'"act-{action["version"]}"'}
    return await desk.send(
        "PATCH", f"/api/v1/action-items/{action['id']}", expect=expect, json=fields, headers=headers
    )


async def titles(desk: Desk, **query: Any) -> list[str]:
    return [it["title"] for it in (await desk.get("/api/v1/action-items", **query))["items"]]


@st.composite
def closings(draw: st.DrawFn) -> tuple[Action, dict[str, Any]]:
    status = draw(st.sampled_from(list(ActionStatus)))
    reasons = st.sampled_from(["Too dear", None])
    old = Action(
        id=UUID(int=1), incident_id=UUID(int=2), incident="INC-1", type=ActionType.PREVENT, title="Do it", factor=None,
        owner=None, priority=None, due_on=None, url=None, status=status, version=1, created_by="user:x",
        created_at=THEN, updated_at=THEN, closed_at=THEN if status in CLOSED else None,
        closed_reason="Before" if status == "wont_do" else draw(reasons) if status == "done" else None,
    )  # fmt: skip
    optional = {"status": st.sampled_from(list(ActionStatus)), "closed_reason": reasons}
    return old, draw(st.fixed_dictionaries({}, optional=optional))


@given(closings())
def test_a_closed_action_has_a_time_and_what_is_given_up_a_reason(
    case: tuple[Action, dict[str, Any]],
) -> None:
    old, wish = case
    status = wish.get("status", old.status)
    kept = old.closed_reason if status == old.status else None
    reason = wish.get("closed_reason", kept)
    if (status == "wont_do" and reason is None) or (
        status not in CLOSED and wish.get("closed_reason")
    ):
        with pytest.raises(InvalidFieldsError):
            change(old, ActionChange(**wish), NOW)
        return
    new = change(old, ActionChange(**wish), NOW)
    assert (new.status, new.closed_reason) == (status, reason if status in CLOSED else None)
    assert new.closed_at == (
        None if status not in CLOSED else THEN if status == old.status else NOW
    )


async def test_an_action_is_answered_as_it_was_sent(desk: Desk) -> None:
    body = {
        "type": "detect", "title": "Watch the queue", "factor": "no-alert", "owner": "Ada", "priority": 1,
        "due_on": "2026-03-01", "url": "https://issues.example.org/7?a=b&c=[d]",
    }  # fmt: skip
    made = await desk.add_action(**body)
    assert {name: made[name] for name in body} == body
    assert (made["incident"], made["incident_id"]) == (desk.ref, desk.incident["id"])
    assert (made["status"], made["closed_at"], made["version"]) == ("open", None, 1)
    second = await desk.add_action()
    assert (await desk.get("/action-items"))["items"] == [made, second]


REFUSED: list[Body] = [
    {"type": "fix"}, {"title": "No"}, {"factor": "Not a slug"}, {"owner": ""}, {"priority": 0},
    {"priority": 5}, {"priority": "1"}, {"priority": True}, {"priority": 1.5}, {"due_on": "2026-02-30"}, {"due_on": "20260301"},
    {"due_on": "2026-03-01T00:00:00Z"}, {"due_on": 1}, {"url": "javascript:alert(1)"}, {"url": "https://"},
    {"url": "https://a/<b>"}, {"url": "https://a b"}, {"status": "done"}, {"version": 2},
]  # fmt: skip


async def test_each_bad_field_is_named_and_nothing_is_written(desk: Desk) -> None:
    for fields in REFUSED:
        body = {"type": "prevent", "title": "Do it", **fields}
        answer = await desk.send("POST", "/action-items", expect=422, json=body)
        assert [error["pointer"] for error in answer.json()["errors"]] == [f"/{next(iter(fields))}"]
    assert (await desk.get("/action-items"))["items"] == []


async def test_a_change_needs_its_version_and_is_audited(desk: Desk) -> None:
    action = await desk.add_action()
    path = f"/api/v1/action-items/{action['id']}"
    await desk.send("PATCH", path, expect=428, json={"owner": "Ada"})
    changed = await patch(desk, action, owner="Ada", priority=2)
    assert (changed.headers["etag"], changed.json()["version"]) == ('"act-2"', 2)
    late = await patch(desk, action, owner="Bob", expect=412)
    assert late.headers["etag"] == '"act-2"'
    same = await patch(desk, changed.json(), owner="Ada")
    assert same.json() == changed.json()
    rows = await desk.service.database.fetch(
        "select action, detail::text from audit_log where object = $1 order by seq",
        f"action:{action['id']}",
    )
    assert [tuple(row) for row in rows] == [
        ("action.create", None),
        ("action.change", '{"owner": [null, "Ada"], "priority": [null, 2]}'),
    ]
    await desk.send("PATCH", f"{path}x", expect=404, json={}, headers={"If-Match": "*"})


async def test_giving_up_needs_a_reason_and_reopening_forgets_it(desk: Desk) -> None:
    action = await desk.add_action()
    refused = await patch(desk, action, status="wont_do", expect=422)
    assert refused.json()["errors"][0]["pointer"] == "/closed_reason"
    closed = (await patch(desk, action, status="wont_do", closed_reason="Too dear")).json()
    assert closed["closed_at"] is not None
    reopened = (await patch(desk, closed, status="in_progress")).json()
    assert (reopened["closed_at"], reopened["closed_reason"]) == (None, None)


async def test_the_list_is_by_due_day_and_takes_its_filters(service: Service) -> None:
    desk, other = await desk_of(service), await desk_of(service)
    who = str(desk.incident["id"])
    await desk.add_action(title="no day", owner=who)
    await desk.add_action(title="long ago", owner=who, due_on="2020-01-01")
    await other.add_action(title="far away", owner=who, due_on="9999-12-31")
    done = await other.add_action(title="done late", owner=who, due_on="2020-01-02")
    await patch(other, done, status="done")
    today = date.fromisoformat(f"{service.now:%Y-%m-%d}")
    await desk.add_action(title="nobody's", due_on=str(today))
    assert await titles(desk, owner=who) == ["long ago", "done late", *await last_two(desk, who)]
    assert await titles(desk, owner=who, overdue=True) == ["long ago"]
    assert "long ago" not in await titles(desk, owner=who, overdue=False)
    assert await titles(desk, owner=who, status="done") == ["done late"]
    assert len(await titles(desk, owner=[who, "Nobody"], status=["done", "open"])) == 4
    for query in ({"status": "closed"}, {"overdue": "maybe"}, {"incident": "INC-1"}, {"limit": 0}):
        await desk.send("GET", "/api/v1/action-items", expect=400, params=query)


async def last_two(desk: Desk, who: str) -> list[str]:
    """Give those at the end: one has no day and one the last day there is, so their ids decide."""
    items = (await desk.get("/api/v1/action-items", owner=who))["items"]
    last = [it for it in items if it["due_on"] in (None, "9999-12-31")]
    assert [it["id"] for it in last] == sorted(it["id"] for it in last)
    return [it["title"] for it in last]


async def test_every_page_goes_on_where_the_last_one_ended(service: Service) -> None:
    desk = await desk_of(service)
    who = str(desk.incident["id"])
    made = [await desk.add_action(owner=who, due_on=day) for day in [None, "2026-01-01", "9999-12-31", None, "0001-01-01", "9999-12-31"]]  # fmt: skip
    seen: list[str] = []
    path = f"/api/v1/action-items?owner={who}&limit=2"
    while path:
        answer = await desk.send("GET", path, expect=200)
        seen += [it["id"] for it in answer.json()["items"]]
        path = answer.headers["link"].split(">")[0][1:] if "link" in answer.headers else ""
    assert sorted(seen) == sorted(it["id"] for it in made)
    cursor = (await desk.get("/api/v1/action-items", owner=who, limit=2))["next_cursor"]
    answer = await desk.send("GET", f"/api/v1/action-items?limit=2&cursor={cursor}", expect=400)
    assert answer.json()["type"] == "/problems/invalid-cursor"


async def test_actions_of_an_archived_incident_leave_the_list_and_stay_as_they_are(
    service: Service,
) -> None:
    desk = await desk_of(service, "admin")
    action = await desk.add_action(owner="Archivist")
    await desk.send("DELETE", expect=204, headers={"If-Match": '"inc-1"'})
    assert await titles(desk, owner="Archivist") == []
    await patch(desk, action, title="Other", expect=409)
    await desk.send("POST", "/action-items", expect=409, json={"type": "learn", "title": "More"})
    assert (await desk.get("/action-items"))["items"] == [action]


async def test_the_most_actions_are_two_hundred(desk: Desk) -> None:
    await desk.service.database.execute(
        "insert into action_items (id, incident_id, type, title, created_by) "
        "select gen_random_uuid(), $1, 'learn', 'Many', 'test' from generate_series(1, 199)",
        desk.incident["id"],
    )
    await desk.add_action()
    answer = await desk.send(
        "POST", "/action-items", expect=409, json={"type": "learn", "title": "More"}
    )
    assert "200" in answer.json()["detail"]


async def test_reads_return_the_etag_that_changes_demand(desk: Desk, service: Service) -> None:
    said = await desk.send(
        "POST", "/annotations", expect=201, json={"kind": "note", "body": "Said"}
    )
    note = f"/api/v1/annotations/{said.json()['id']}"
    etag = {"If-Match": (await desk.send("GET", note, expect=200)).headers["etag"]}
    await desk.send("DELETE", note, expect=204, headers=etag)
    await desk.send("GET", note, expect=404)
    person = f"/api/v1/users/{await service.person('viewer')}"
    admin = await service.as_role("admin")
    etag = {"If-Match": (await desk.send("GET", person, expect=200, headers=admin)).headers["etag"]}
    await desk.send("PATCH", person, expect=200, json={"disabled": True}, headers=admin | etag)


async def test_a_read_returns_the_etag_that_a_change_demands(desk: Desk) -> None:
    made = await desk.add_action()
    path = f"/api/v1/action-items/{made['id']}"
    read = await desk.send("GET", path, expect=200)
    assert read.json() == made
    etag = {"If-Match": read.headers["etag"]}
    changed = await desk.send("PATCH", path, expect=200, json={"owner": "Ada"}, headers=etag)
    assert changed.headers["etag"] != read.headers["etag"]
    same = {"If-None-Match": changed.headers["etag"]}
    assert (await desk.send("GET", path, expect=304, headers=same)).content == b""
