"""Whatever moves are tried, an incident's history is a chain, and a refused move leaves nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from postfacta_app.principal import Principal
from postfacta_postgres import Database
from tests.app.incidents.asking import BASE, ClientFor, held
from tests.app.live import NEW, Body

ALLOWED = {
    "OPEN": {"IN_PROGRESS", "RESOLVED", "CLOSED"},
    "IN_PROGRESS": {"RESOLVED", "CLOSED"},
    "RESOLVED": {"IN_PROGRESS", "CLOSED"},
    "CLOSED": {"IN_PROGRESS"},
}
ENDED = {"RESOLVED", "CLOSED"}

tries = st.lists(
    st.fixed_dictionaries(
        {"to": st.sampled_from(list(ALLOWED))},
        optional={
            "outcome": st.sampled_from(["fixed", "duplicate", None]),
            "reason": st.sampled_from(["It came back.", None]),
            "occurred_at": st.datetimes(datetime(2020, 1, 1), datetime(2026, 1, 1)).map(  # noqa: DTZ001 - made UTC next
                lambda at: at.replace(tzinfo=UTC).isoformat()
            ),
        },
    ),
    max_size=8,
)


def expected(before: Mapping[str, Any], wish: Mapping[str, Any]) -> int:
    """Return what the table of transitions allows, by another implementation."""
    start, to = before["status"], wish["to"]
    if start == to:
        return 200
    if to not in ALLOWED[start]:
        return 409
    has_outcome = wish.get("outcome") is not None
    reopens = start in ENDED and to == "IN_PROGRESS"
    return (
        422 if has_outcome != (to == "CLOSED") or (reopens and wish.get("reason") is None) else 201
    )


def check_invariants(incident: Mapping[str, Any], changes: Sequence[asyncpg.Record]) -> None:
    steps = [(change["from_status"], change["to_status"]) for change in changes]
    assert steps[0] == (None, "OPEN")
    assert [step[0] for step in steps[1:]] == [step[1] for step in steps[:-1]]
    assert steps[-1][1] == incident["status"]
    assert (incident["status"] in ENDED) == (incident["ended_at"] is not None)
    assert (incident["status"] == "CLOSED") == (incident["outcome"] is not None)
    assert incident["version"] == len(steps)
    stamps = [change["at"] for change in changes]
    assert all(earlier < later for earlier, later in pairwise(stamps))


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # each example declares an incident of its own in the one database
@given(wishes=tries)
async def test_any_sequence_of_moves_keeps_the_rules(
    client_for: ClientFor, responder: Principal, app_database: Database, *, wishes: list[Body]
) -> None:
    client = client_for(responder)
    incident: Body = (await client.post(BASE, json=NEW)).json()
    path = f"{BASE}/{incident['id']}"
    for wish in wishes:
        answer = await client.post(f"{path}/transitions", json=wish)
        assert answer.status_code == expected(incident, wish), answer.text
        if answer.status_code == 409:
            assert set(answer.json()["allowed"]) == ALLOWED[incident["status"]]
        now = (await client.get(path)).json()
        if answer.status_code == 201:
            assert answer.json() == now
            if (
                incident["status"] not in ENDED
                and now["status"] in ENDED
                and wish.get("occurred_at")
            ):
                assert datetime.fromisoformat(now["ended_at"]) == datetime.fromisoformat(
                    wish["occurred_at"]
                )
            if incident["status"] == "RESOLVED" and now["status"] == "CLOSED":
                assert now["ended_at"] == incident["ended_at"]
        else:
            assert now == incident
        incident = now
        changes = await app_database.fetch(
            "select * from status_changes where incident_id = $1 order by at",
            UUID(incident["id"]),
            operation="test",
        )
        check_invariants(incident, changes)
        audit = await app_database.fetch(
            "select from audit_log where incident_id = $1", UUID(incident["id"]), operation="test"
        )
        assert len(audit) == len(changes)


async def test_stamps_grow_with_the_database_clock_an_hour_behind(
    client_for: ClientFor, responder: Principal, app_database: Database
) -> None:
    client = client_for(responder)
    path = f"{BASE}/{(await client.post(BASE, json=NEW)).json()['id']}/transitions"
    await app_database.execute(
        "update incidents set timeline_at = timeline_at + interval '1 hour'", operation="test"
    )
    for to in ("IN_PROGRESS", "RESOLVED"):
        assert (await client.post(path, json={"to": to})).status_code == 201
    rows = await app_database.fetch("select at from status_changes order by at", operation="test")
    first, second, third = (row["at"] for row in rows)
    assert second > first + timedelta(minutes=59)
    assert second < third < second + timedelta(milliseconds=1)


@pytest.mark.parametrize("minutes", [6, 60_000_000])
async def test_a_move_cannot_lie_in_the_future(
    client_for: ClientFor, responder: Principal, minutes: int
) -> None:
    client = client_for(responder)
    path = f"{BASE}/{(await client.post(BASE, json=NEW)).json()['id']}/transitions"
    later = datetime.now(UTC) + timedelta(minutes=minutes)  # noqa: TID251 - the handler's own clock is the wall clock
    answer = await client.post(path, json={"to": "RESOLVED", "occurred_at": later.isoformat()})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/occurred_at"


async def test_of_two_equal_moves_at_once_one_is_made(
    client_for: ClientFor, responder: Principal, app_database: Database
) -> None:
    client = client_for(responder)
    path = f"{BASE}/{(await client.post(BASE, json=NEW)).json()['id']}/transitions"
    statuses: list[int] = []

    async def resolve() -> None:
        statuses.append((await client.post(path, json={"to": "RESOLVED"})).status_code)

    async with held(app_database, waiters=2) as group:
        for _ in range(2):
            group.start_soon(resolve)
    assert sorted(statuses) == [200, 201]
    assert len(await app_database.fetch("select from status_changes", operation="test")) == 2
