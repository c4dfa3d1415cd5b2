"""The v1 API of incidents keeps its promises on a real database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx2

from postfacta_app.principal import Principal
from postfacta_postgres import Database
from tests.app.incidents.asking import BASE, ClientFor, held
from tests.app.live import NEW, Body


async def declare(client: httpx2.AsyncClient, **fields: object) -> Body:
    answer = await client.post(BASE, json=NEW | fields)
    assert answer.status_code == 201, answer.text
    body: Body = answer.json()
    return body


async def listed(client: httpx2.AsyncClient, **query: object) -> list[str]:
    answer = await client.get(BASE, params=query)  # type: ignore[arg-type]  # any mapping of parameters will do
    assert answer.status_code == 200, answer.text
    return [item["title"] for item in answer.json()["items"]]


async def test_a_new_incident_can_be_found_where_the_answer_says(
    client_for: ClientFor, responder: Principal
) -> None:
    client = client_for(responder)
    made = await client.post(BASE, json=NEW)
    assert made.status_code == 201
    assert made.headers["location"] == f"{BASE}/{made.json()['id']}"
    assert made.headers["etag"] == '"inc-1"'
    for path in (made.headers["location"], f"{BASE}/INC-{made.json()['number']}"):
        found = await client.get(path)
        assert found.json() == made.json()
        assert found.headers["etag"] == '"inc-1"'
    assert made.json()["reporter"] == "Responder"
    assert made.json()["members"] == [str(responder.user_id)]
    assert made.json()["created_by"] == responder.actor
    assert datetime.fromisoformat(made.json()["declared_at"]).tzinfo is not None
    assert made.json()["declared_at"].endswith("Z")


async def test_creating_writes_the_first_status_change_and_who_did_it(
    client_for: ClientFor, responder: Principal, app_database: Database
) -> None:
    when = "2026-01-05T12:00:00.123456+02:00"
    made = await declare(client_for(responder), declared_at=when)
    assert made["declared_at"] == "2026-01-05T10:00:00.123456Z"
    changes = await app_database.fetch("select * from status_changes", operation="test")
    assert [(row["from_status"], row["to_status"]) for row in changes] == [(None, "OPEN")]
    assert changes[0]["occurred_at"] == datetime.fromisoformat(when)
    audit = await app_database.fetchrow(
        "select *, host(client) as host from audit_log", operation="test"
    )
    assert audit is not None
    assert (audit["actor"], audit["action"]) == (responder.actor, "incident.create")
    assert (audit["object"], audit["host"]) == (f"INC-{made['number']}", "192.0.2.7")


REFUSED: list[tuple[Body, str]] = [
    ({"title": "ab"}, "/title"),
    ({"title": "x" * 201}, "/title"),
    ({"title": None}, "/title"),
    ({"title": 7}, "/title"),
    ({"description": "too short"}, "/description"),
    ({"description": "x" * 2001}, "/description"),
    ({"severity": "high"}, "/severity"),
    ({"kind": "drill"}, "/kind"),
    ({"reporter": "x"}, "/reporter"),
    ({"owner": ""}, "/owner"),
    ({"services": ["Upper"]}, "/services/0"),
    ({"services": ["ok\n"]}, "/services/0"),
    ({"services": [f"s{n}" for n in range(51)]}, "/services"),
    ({"services": None}, "/services"),
    ({"teams": [None]}, "/teams/0"),
    ({"visibility": "secret"}, "/visibility"),
    ({"members": ["me"]}, "/members/0"),
    ({"members": ["00000000-0000-4000-8000-000000000001"]}, "/members/0"),
    ({"declared_at": "2026-01-05T12:00:00"}, "/declared_at"),
    ({"declared_at": 1}, "/declared_at"),
    ({"declared_at": "1969-12-31T23:59:59Z"}, "/declared_at"),
    ({"declared_at": "2100-01-01T00:00:00Z"}, "/declared_at"),
    ({"status": "OPEN"}, "/status"),
    ({"id": str(uuid4())}, "/id"),
]


async def test_each_bad_field_is_named_and_nothing_is_written(
    client_for: ClientFor, responder: Principal, app_database: Database
) -> None:
    for fields, pointer in REFUSED:
        answer = await client_for(responder).post(BASE, json=NEW | fields)
        assert answer.status_code == 422, fields
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert not await app_database.fetch("select from incidents", operation="test")


async def test_the_longest_and_the_shortest_texts_are_taken(
    client_for: ClientFor, responder: Principal
) -> None:
    longest = {
        "title": "😀" * 200,
        "description": "ä" * 2000,
        "reporter": "r" * 100,
        "owner": "o" * 100,
    }
    shortest = {"title": "   ", "description": " " * 10, "reporter": "  ", "owner": " "}
    for fields in (longest, shortest):
        made = await declare(client_for(responder), **fields)
        assert {name: made[name] for name in fields} == fields


async def test_a_name_that_is_too_short_for_a_reporter_is_replaced(
    client_for: ClientFor, responder: Principal
) -> None:
    for name, reporter in (("X", responder.actor), ("x" * 101, "x" * 100)):
        made = await declare(client_for(replace(responder, name=name)))
        assert made["reporter"] == reporter


async def test_five_minutes_of_clock_error_are_forgiven(
    client_for: ClientFor, responder: Principal
) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=4)  # noqa: TID251 - the handler's own clock is the wall clock
    await declare(client_for(responder), declared_at=soon.isoformat())


async def test_a_change_needs_the_version_it_starts_from(
    client_for: ClientFor, responder: Principal
) -> None:
    client = client_for(responder)
    path = f"{BASE}/{(await declare(client, kind='exercise'))['id']}"
    changed = await client.patch(path, json={"title": "Other"}, headers={"If-Match": '"inc-1"'})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"inc-2"')
    late = await client.patch(path, json={"title": "Third"}, headers={"If-Match": '"inc-1"'})
    assert (late.status_code, late.headers["etag"]) == (412, '"inc-2"')
    assert (await client.get(path)).json() == changed.json()


async def test_of_twenty_changes_of_one_version_one_wins(
    client_for: ClientFor, responder: Principal, app_database: Database
) -> None:
    client = client_for(responder)
    path = f"{BASE}/{(await declare(client))['id']}"
    statuses: list[int] = []

    async def change(number: int) -> None:
        answer = await client.patch(
            path, json={"title": f"Change {number}"}, headers={"If-Match": '"inc-1"'}
        )
        statuses.append(answer.status_code)

    async with held(app_database, waiters=5) as group:
        for number in range(20):
            group.start_soon(change, number)
    assert sorted(statuses) == [200, *[412] * 19]


async def test_null_takes_the_owner_away_and_nothing_else(
    client_for: ClientFor, responder: Principal
) -> None:
    client, match = client_for(responder), {"If-Match": "*"}
    path = f"{BASE}/{(await declare(client, owner='Ada', services=['web']))['id']}"
    assert (await client.patch(path, json={"owner": None}, headers=match)).json()["owner"] is None
    for name in (
        "title",
        "description",
        "severity",
        "reporter",
        "services",
        "teams",
        "visibility",
        "members",
    ):
        refused = await client.patch(path, json={name: None}, headers=match)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"] == f"/{name}"
    for name in ("declared_at", "kind", "status", "number"):
        assert (await client.patch(path, json={name: "x"}, headers=match)).status_code == 422
    unchanged = (await client.get(path)).json()
    assert (unchanged["services"], unchanged["version"]) == (["web"], 2)


async def test_a_change_to_what_is_already_so_writes_nothing(
    client_for: ClientFor, responder: Principal, app_database: Database
) -> None:
    client = client_for(responder)
    path = f"{BASE}/{(await declare(client))['id']}"
    for body in ({}, {"title": NEW["title"]}):
        answer = await client.patch(path, json=body, headers={"If-Match": '"inc-1"'})
        assert (answer.status_code, answer.headers["etag"]) == (200, '"inc-1"')
    assert len(await app_database.fetch("select from audit_log", operation="test")) == 1


async def test_the_audit_keeps_what_a_change_changed(
    client_for: ClientFor, responder: Principal, app_database: Database
) -> None:
    client = client_for(responder)
    path = f"{BASE}/{(await declare(client))['id']}"
    await client.patch(
        path, json={"severity": "LOW", "title": NEW["title"]}, headers={"If-Match": "*"}
    )
    row = await app_database.fetchrow(
        "select detail::text from audit_log where action = 'incident.change'", operation="test"
    )
    assert row is not None
    assert row["detail"] == '{"severity": ["HIGH", "LOW"]}'


async def test_the_same_version_is_not_sent_twice(
    client_for: ClientFor, responder: Principal
) -> None:
    client = client_for(responder)
    path = f"{BASE}/{(await declare(client))['id']}"
    same = await client.get(path, headers={"If-None-Match": '"x", W/"inc-1"'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", '"inc-1"')
    assert (await client.get(path, headers={"If-None-Match": '"inc-2"'})).status_code == 200


async def test_only_administrators_archive_what_is_not_an_exercise(
    client_for: ClientFor, responder: Principal, admin: Principal
) -> None:
    client = client_for(responder)
    path = f"{BASE}/{(await declare(client))['id']}"
    assert (await client.delete(path, headers={"If-Match": "*"})).status_code == 403
    assert (
        await client_for(admin).delete(path, headers={"If-Match": '"inc-9"'})
    ).status_code == 412
    assert (
        await client_for(admin).delete(path, headers={"If-Match": '"inc-1"'})
    ).status_code == 204
    drill = f"{BASE}/{(await declare(client, kind='exercise'))['id']}"
    assert (await client.delete(drill, headers={"If-Match": "*"})).status_code == 204


async def test_what_is_archived_leaves_the_lists_and_stays_as_it_is(
    client_for: ClientFor, responder: Principal, admin: Principal
) -> None:
    client = client_for(admin)
    path = f"{BASE}/{(await declare(client_for(responder)))['id']}"
    for _ in range(2):
        assert (await client.delete(path, headers={"If-Match": "*"})).status_code == 204
    assert await listed(client) == []
    archived = await client.get(path)
    assert archived.json()["archived_at"] is not None
    assert archived.headers["etag"] == '"inc-2"'
    assert (
        await client.patch(path, json={"owner": "A"}, headers={"If-Match": "*"})
    ).status_code == 409
    assert (await client.post(f"{path}/transitions", json={"to": "RESOLVED"})).status_code == 409
    assert (await client.get(path)).json() == archived.json()
