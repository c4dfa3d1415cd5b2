"""Whatever is sent to `start`, it is kept as it was sent or refused, and v0 shows what is stored."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import anyio
import httpx2
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import example, given, settings, strategies as st

from postfacta_app.db import Transactions
from postfacta_app.incidents.v0 import PostgresV0, parse_start
from postfacta_app.web.body import parse_json
from postfacta_embedded import EmbeddedPostgres
from postfacta_postgres import Database
from tests.app.v0_app import a_client, an_application
from tests.kit.pg import fresh_database

LIST, START = "/api/v0/incidents", "/api/v0/incidents/start"


class Service:
    """A running v0 that tests without a loop of their own can call."""

    def __init__(
        self, portal: BlockingPortal, client: httpx2.AsyncClient, database: Database
    ) -> None:
        self._portal = portal
        self._client = client
        self._database = database

    def start(self, content: bytes) -> httpx2.Response:
        return self._portal.call(partial(self._client.post, START, content=content))

    def get(self, path: str) -> Any:
        return self._portal.call(self._client.get, path).json()

    def execute(self, sql: str, *args: object) -> None:
        self._portal.call(partial(self._database.execute, sql, *args, operation="test"))


@asynccontextmanager
async def running(dsn: str) -> AsyncGenerator[tuple[httpx2.AsyncClient, Database]]:
    async with Database(dsn) as database:
        with anyio.fail_after(10):
            await database.wait_connected()
        async with a_client(an_application(PostgresV0(database, Transactions(database)))) as client:
            yield client, database


@pytest.fixture(scope="module")
def service(postgres_server: EmbeddedPostgres, app_template: str) -> Generator[Service]:
    """Run v0 on a database of its own."""
    with (
        fresh_database(postgres_server, app_template) as dsn,
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(running(dsn)) as (client, database),
    ):
        yield Service(portal, client, database)


any_text = st.text(st.characters(codec=None))
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(any_text, inner, max_size=5),
    max_leaves=10,
)
a_time = st.datetimes().map(lambda at: at.isoformat() + "Z") | st.sampled_from(
    [
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59.9999999-23:59",
        "9999-12-31T23:59:59.999999999Z",
        "2026-02-07T10:00:00.500-00:00",
    ]
)
a_note = st.none() | st.fixed_dictionaries(
    {}, optional={"timestamp": st.none() | a_time, "message": st.none() | any_text}
)
a_start = st.fixed_dictionaries(
    {
        "title": st.text(st.characters(codec=None), min_size=3, max_size=200),
        "Description": st.text(st.characters(codec=None), min_size=10, max_size=50),
        "REPORTER": st.text(st.characters(codec=None), min_size=2, max_size=100),
        "severity": st.sampled_from(["LOW", "MEDIUM", "HIGH", "CRITICAL"]),
    },
    optional={
        "owner": st.none() | st.text(st.characters(codec=None), max_size=100),
        "notes": st.none() | st.lists(a_note, max_size=4),
        "id": any_json,
        "Title": any_json,
    },
)


@given(
    st.binary()
    | any_json.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(
        st.sampled_from(
            ["title", "description", "reporter", "severity", "owner", "notes", "Notes"]
        ),
        any_json,
    ).map(lambda value: json.dumps(value).encode())
)
@example(b"[" * 100_000)
@example(b'{"notes":' + b"[" * 200 + b"]" * 200 + b"}")
@example(b'{"title":' + b"9" * 5000 + b"}")
@example(b'{"notes":[{"timestamp":1e400}]}')
def test_random_bytes_and_random_json_are_taken_or_refused_and_never_crash(
    service: Service, content: bytes
) -> None:
    response = service.start(content)
    assert response.status_code in {201, 400}
    if response.status_code == 400:
        assert response.json()["message"].startswith(
            ("Invalid request body: ", "Validation failed: ")
        )


@given(a_start)
def test_what_is_taken_is_shown_as_it_was_sent(
    service: Service, start: Mapping[str, object]
) -> None:
    content = json.dumps(start).encode()
    response = service.start(content)
    if response.status_code == 400:
        return
    assert response.status_code == 201
    shown = service.get(f"{LIST}/{response.json()['id']}")
    at = datetime.fromisoformat(shown["start_time"])
    sent = parse_start(parse_json(content), UUID(shown["id"]), at).model_dump(mode="json")
    assert list(shown.items()) == list(json.loads(json.dumps(sent)).items())


Columns = Mapping[str, Any]
AT = datetime(2026, 2, 7, 10, 0, 0, 250_000, tzinfo=UTC)
NEW: Columns = {
    "kind": "incident",
    "visibility": "internal",
    "archived_at": None,
    "title": "abc",
    "severity": "LOW",
    "status": "OPEN",
    "ended_at": None,
    "owner": None,
}
a_change: st.SearchStrategy[Columns] = st.sampled_from(
    [
        {"visibility": "private"},
        {"visibility": "internal"},
        {"archived_at": AT},
        {"kind": "exercise"},
        {"kind": "near_miss"},
        {"title": "Renamed", "severity": "CRITICAL"},
        {"owner": "platform"},
        {"owner": None},
        {"status": "IN_PROGRESS", "ended_at": None, "outcome": None},
        {"status": "RESOLVED", "ended_at": AT, "outcome": None},
        {"status": "CLOSED", "ended_at": AT, "outcome": "fixed"},
    ]
)
NOTE = """
with n as (select gen_random_uuid() as id)
insert into annotations (id, root, incident_id, kind, body, author, occurred_at, at)
select n.id, n.id, $1, 'note', $2, 'somebody', $3, clock_timestamp() from n"""


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 2), a_change | st.integers(0, 59)), max_size=12))
def test_the_list_is_the_projection_of_what_v1_wrote(
    service: Service, writes: list[tuple[int, Columns | int]]
) -> None:
    body = json.dumps(
        {"title": "abc", "description": "0123456789", "reporter": "ab", "severity": "LOW"}
    )
    ids = [UUID(service.start(body.encode()).json()["id"]) for _ in range(3)]
    incidents = [dict(NEW) for _ in ids]
    notes: list[list[int]] = [[] for _ in ids]
    for which, write in writes:
        if isinstance(write, int):
            notes[which].append(write)
            service.execute(NOTE, ids[which], str(write), AT.replace(second=write))
        else:
            incidents[which].update(write)
            assignments = ", ".join(f"{column} = ${place}" for place, column in enumerate(write, 2))
            text = f"update incidents set {assignments} where id = $1"  # noqa: S608 - ours
            service.execute(text, ids[which], *write.values())
    listed = {UUID(one["id"]): one for one in service.get(LIST)}
    shown = [
        identity for identity, columns in zip(ids, incidents, strict=True) if _is_shown(columns)
    ]
    assert [identity for identity in listed if identity in ids] == shown
    for identity, columns, added in zip(ids, incidents, notes, strict=True):
        if identity in shown:
            assert _projected(columns, added).items() <= listed[identity].items()


def _is_shown(columns: Columns) -> bool:
    is_secret = columns["visibility"] == "private" or columns["archived_at"] is not None
    return not is_secret and columns["kind"] != "exercise"


def _projected(columns: Columns, added: list[int]) -> Mapping[str, object]:
    notes = [
        {"timestamp": f"2026-02-07T10:00:{note:02}.25Z", "message": str(note)} for note in added
    ]
    owner = {"owner": columns["owner"]} if columns["owner"] else {}
    return {
        "title": columns["title"],
        "severity": columns["severity"],
        "status": columns["status"],
        "end_time": "2026-02-07T10:00:00.25Z" if columns["ended_at"] else "0001-01-01T00:00:00Z",
        "initial_notes": None,
        "additional_notes": notes or None,
        **owner,
    }
