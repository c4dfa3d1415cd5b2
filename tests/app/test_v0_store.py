"""v0 on PostgreSQL: one transaction for a start, and a view of what v1 knows."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import anyio
import httpx2
import pytest

from postfacta_app.db import Transactions
from postfacta_app.incidents.v0 import PostgresV0
from postfacta_core.asgi.stack import Hardened
from postfacta_core.events import Mode
from postfacta_postgres import Database
from tests.app.live import patient_routes
from tests.app.v0_app import MemoryStore, a_client, an_application

LIST, START = "/api/v0/incidents", "/api/v0/incidents/start"
VALID = {
    "title": "Database outage",
    "description": "The primary database does not answer",
    "reporter": "sre",
    "severity": "HIGH",
}
NOTES = [
    {"timestamp": "2026-02-07T10:00:00.1234567+09:00", "message": "with an offset"},
    {"message": "without a time"},
    None,
    {"timestamp": "0000-02-29T00:00:00Z", "message": "before the first year"},
    {
        "timestamp": "9999-12-31T23:59:59.999998Z",
        "message": "the last instant that PostgreSQL is told",
    },
    {"timestamp": "9999-12-31T23:59:59.999999Z", "message": "infinity, as asyncpg sees it"},
    {"timestamp": "0001-01-01T00:00:00.000001Z", "message": "the first microsecond"},
    {"timestamp": "0001-01-01T01:00:00+01:00", "message": "no time, under an offset"},
]


@asynccontextmanager
async def v0(
    database: Database, *, limit: int = 1000, sheds: bool = True
) -> AsyncGenerator[httpx2.AsyncClient]:
    store = PostgresV0(database, Transactions(database), limit=limit)
    with patient_routes():
        app = an_application(store)
        assert isinstance(app, Hardened)
        if not sheds:
            app.shedding.mode = Mode.OFF
        async with a_client(app) as client:
            yield client


async def started(client: httpx2.AsyncClient, **fields: object) -> UUID:
    response = await client.post(START, json={**VALID, **fields})
    assert response.status_code == 201, response.text
    return UUID(response.json()["id"])


async def listed(client: httpx2.AsyncClient) -> Sequence[Mapping[str, Any]]:
    response = await client.get(LIST)
    assert response.status_code == 200, response.text
    found: list[Mapping[str, Any]] = response.json()
    return found


async def rows(database: Database, table: str) -> list[dict[str, Any]]:
    return [dict(row) for row in await database.fetch(f"select * from {table}", operation="test")]  # noqa: S608 - ours


async def test_a_start_writes_all_its_facts(app_database: Database) -> None:
    async with v0(app_database) as client:
        identity = await started(client, owner="platform", notes=NOTES)
    [incident] = await rows(app_database, "incidents")
    assert incident["id"] == identity
    assert (incident["status"], incident["owner"], incident["v0_notes_null"]) == (
        "OPEN",
        "platform",
        False,
    )
    assert incident["created_by"] == "anonymous"
    [change] = await rows(app_database, "status_changes")
    assert (change["from_status"], change["to_status"]) == (None, "OPEN")
    assert change["occurred_at"] == incident["declared_at"]
    assert change["at"] == incident["timeline_at"]
    [audit] = await rows(app_database, "audit_log")
    assert (audit["action"], audit["object"]) == ("incident.create", f"INC-{incident['number']}")
    assert (audit["incident_id"], audit["actor"]) == (identity, "anonymous")
    assert audit["request_id"]


async def test_a_note_with_a_real_time_is_a_timeline_entry_and_one_without_is_not(
    app_database: Database,
) -> None:
    async with v0(app_database) as client:
        await started(client, notes=NOTES)
    found = sorted(await rows(app_database, "annotations"), key=lambda row: row["v0_position"])
    assert [row["v0_position"] for row in found] == list(range(len(NOTES)))
    assert [row["occurred_at"] for row in found] == [
        datetime(2026, 2, 7, 1, 0, 0, 123456, tzinfo=UTC),
        None,
        None,
        None,
        datetime(9999, 12, 31, 23, 59, 59, 999998, tzinfo=UTC),
        None,
        datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        None,
    ]
    assert all(row["root"] == row["id"] for row in found)


@pytest.mark.parametrize("notes", [None, [], NOTES])
async def test_postgresql_and_memory_answer_alike(app_database: Database, notes: object) -> None:
    async with v0(app_database) as client, a_client(an_application(MemoryStore())) as other:
        answers: list[Mapping[str, Any]] = []
        for each in (client, other):
            identity = await started(each, notes=notes, owner="platform", title="a\ufffd<é>😀")
            [incident] = await listed(each)
            assert incident == (await each.get(f"{LIST}/{identity}")).json()
            answers.append({**incident, "id": "", "start_time": ""})
    assert answers[0] == answers[1]


async def test_a_taken_id_is_a_conflict_and_leaves_no_trace(
    app_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = uuid4()
    monkeypatch.setattr("postfacta_app.incidents.v0.uuid4", lambda: same)
    async with v0(app_database) as client:
        await started(client)
        again = await client.post(START, json={**VALID, "title": "again", "notes": NOTES})
        assert again.status_code == 409
        assert (
            again.json()["message"] == "Incident with the same ID already exists: incident conflict"
        )
        assert [incident["title"] for incident in await listed(client)] == [VALID["title"]]
    for table in ("incidents", "status_changes", "audit_log"):
        assert len(await rows(app_database, table)) == 1
    assert await rows(app_database, "annotations") == []


async def test_two_hundred_starts_by_fifty_callers_are_two_hundred_incidents_in_order(
    app_database: Database,
) -> None:
    found: list[UUID] = []
    # A service that has just started refuses some of so many at once; here it is the store that is
    # tried.
    async with v0(app_database, sheds=False) as client:
        callers = anyio.CapacityLimiter(50)

        async def start(number: int) -> None:
            async with callers:
                found.append(
                    await started(
                        client, title=f"Number {number}", notes=[{"message": str(number)}]
                    )
                )

        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(start, number)
        incidents = await listed(client)
    assert len(set(found)) == 200
    assert {UUID(incident["id"]) for incident in incidents} == set(found)
    # Python's own order of the instants: texts of different lengths do not compare.
    places = [
        (datetime.fromisoformat(incident["start_time"]), incident["id"]) for incident in incidents
    ]
    assert places == sorted(places)
    assert all(
        incident["title"] == f"Number {incident['initial_notes'][0]['message']}"
        for incident in incidents
    )


async def test_a_key_makes_one_incident_and_replays_the_bytes(app_database: Database) -> None:
    headers = {"Idempotency-Key": '"once"'}
    async with v0(app_database) as client:
        answers: list[httpx2.Response] = []

        async def start() -> None:
            answers.append(await client.post(START, json=VALID, headers=headers))

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(start)
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.content for answer in answers}) == 1
        assert sum(answer.headers.get("idempotency-replayed") == "true" for answer in answers) == 7
        assert {answer.headers["content-type"] for answer in answers} == {
            "application/json; charset=utf-8"
        }
        assert len(await listed(client)) == 1
        other = await client.post(START, json={**VALID, "title": "Other"}, headers=headers)
        assert other.status_code == 422
        assert "message" in other.json()


async def test_a_long_list_has_a_link_to_the_older_ones(app_database: Database) -> None:
    async with v0(app_database, limit=3) as client:
        made = [await started(client, title=f"Number {number}") for number in range(7)]
        url, pages = LIST, list[list[UUID]]()
        while url:
            response = await client.get(url)
            pages.insert(0, [UUID(incident["id"]) for incident in response.json()])
            link = response.headers.get("link", "")
            assert not link or link.endswith('>; rel="next"')
            url = link.removeprefix("<").partition(">")[0]
        assert [len(page) for page in pages] == [1, 3, 3]
        assert [identity for page in pages for identity in page] == made
        assert (await client.get(f"{LIST}?cursor=x")).status_code == 400


async def test_private_archived_and_exercise_incidents_are_not_in_v0(
    app_database: Database,
) -> None:
    async with v0(app_database) as client:
        shown = await started(client, title="shown")
        near_miss = await started(client, title="near miss")
        await change(app_database, near_miss, "kind = 'near_miss'")
        for assignment in ("visibility = 'private'", "archived_at = now()", "kind = 'exercise'"):
            hidden = await started(client, title=assignment)
            await change(app_database, hidden, assignment)
            missing = await client.get(f"{LIST}/{hidden}")
            assert (missing.status_code, missing.json()["message"]) == (404, "Incident not found")
        assert [UUID(incident["id"]) for incident in await listed(client)] == [shown, near_miss]


async def change(database: Database, identity: UUID, assignment: str) -> None:
    await database.execute(
        f"update incidents set {assignment} where id = $1",  # noqa: S608 - ours
        identity,
        operation="test",
    )


async def test_an_end_is_shown(app_database: Database) -> None:
    async with v0(app_database) as client:
        identity = await started(client)
        ended = "status = 'CLOSED', outcome = 'fixed', ended_at = '2026-02-07T11:15:00.5+01:00'"
        await change(app_database, identity, ended)
        [incident] = await listed(client)
    assert (incident["status"], incident["end_time"]) == ("CLOSED", "2026-02-07T10:15:00.5Z")


async def annotate(
    database: Database, incident: UUID, body: str, *, at: datetime, **columns: object
) -> UUID:
    row: dict[str, object] = {"id": uuid4(), "incident_id": incident, "body": body, "at": at}
    row |= {"kind": "note", "author": "somebody"} | columns
    row.setdefault("root", row["id"])
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    text = f"insert into annotations ({', '.join(row)}) values ({places})"  # noqa: S608 - ours
    await database.execute(text, *row.values(), operation="test")
    identity = row["id"]
    assert isinstance(identity, UUID)
    return identity


async def test_additional_notes_are_those_on_the_incident_itself_in_order_of_creation(
    app_database: Database,
) -> None:
    at = datetime(2026, 2, 7, 10, tzinfo=UTC)
    later = [at + timedelta(seconds=number) for number in range(9)]
    async with v0(app_database) as client:
        incident = await started(client, notes=[{"message": "initial"}])
        [initial] = await rows(app_database, "annotations")
        first = await annotate(app_database, incident, "draft", at=later[0])
        await annotate(
            app_database, incident, "second", at=later[1], occurred_at=at - timedelta(hours=1)
        )
        await annotate(app_database, incident, "why", at=later[2], kind="decision")
        await annotate(
            app_database, incident, "beside", at=later[3], entry_source="ci", entry_id="1"
        )
        gone = await annotate(app_database, incident, "gone", at=later[4])
        await annotate(
            app_database, incident, "gone", at=later[5], root=gone, supersedes=gone, retracted=True
        )
        await annotate(app_database, incident, "first", at=later[6], root=first, supersedes=first)
        await annotate(
            app_database,
            incident,
            "corrected",
            at=later[7],
            root=initial["root"],
            supersedes=initial["id"],
        )
        await annotate(app_database, incident, "third", at=later[8])
        [shown] = await listed(client)
    assert shown["initial_notes"] == [{"timestamp": "0001-01-01T00:00:00Z", "message": "initial"}]
    assert shown["additional_notes"] == [
        {"timestamp": "2026-02-07T10:00:06Z", "message": "first"},
        {"timestamp": "2026-02-07T09:00:00Z", "message": "second"},
        {"timestamp": "2026-02-07T10:00:08Z", "message": "third"},
    ]


async def test_lone_surrogates_are_stored_replaced_and_nul_never(app_database: Database) -> None:
    text = json.dumps({**VALID, "title": "ab\ud800", "notes": [{"message": "\udc00\udc00"}]})
    async with v0(app_database) as client:
        assert (await client.post(START, content=text)).status_code == 201
        assert (await client.post(START, json={**VALID, "title": "ab\0"})).status_code == 400
        assert (
            await client.post(START, json={**VALID, "notes": [{"message": "\0"}]})
        ).status_code == 400
        [incident] = await listed(client)
    assert incident["title"] == "ab\ufffd"
    assert incident["initial_notes"][0]["message"] == "\ufffd\ufffd"
