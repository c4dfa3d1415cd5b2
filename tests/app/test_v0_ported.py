"""The seventeen integration tests of the original, against a store that writes down its calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from tests.app.v0_app import FailingStore, FixedStore, MemoryStore, a_client, an_application

LIST, START = "/api/v0/incidents", "/api/v0/incidents/start"
VALID = {
    "title": "Database outage",
    "description": "The primary database does not answer",
    "reporter": "sre",
    "severity": "HIGH",
    "owner": "platform",
    "notes": [{"timestamp": "2026-02-07T10:00:00Z", "message": "first look"}],
}


async def answer(
    store: MemoryStore, method: str, path: str, *, body: Mapping[str, object] | None = None
) -> tuple[int, Any]:
    async with a_client(an_application(store)) as client:
        response = await client.request(method, path, json=body)
        return response.status_code, response.json()


async def refused(body: Mapping[str, object] | None) -> str:
    store = MemoryStore()
    status, told = await answer(store, "POST", START, body=body)
    assert (status, store.calls) == (400, [])
    message: str = told["message"]
    return message


async def test_i1_an_empty_store_lists_an_empty_array() -> None:
    store = MemoryStore()
    assert await answer(store, "GET", LIST) == (200, [])
    assert store.calls == ["list"]


async def test_i2_incidents_are_listed_in_the_order_of_the_store() -> None:
    store = MemoryStore(FixedStore().incidents[1::-1])
    status, told = await answer(store, "GET", LIST)
    assert status == 200
    assert [one["status"] for one in told] == ["IN_PROGRESS", "OPEN"]
    assert store.calls == ["list"]


async def test_i3_a_store_that_fails_to_list_is_a_500() -> None:
    store = FailingStore()
    status, told = await answer(store, "GET", LIST)
    assert (status, store.calls) == (500, ["list"])
    assert told["message"] == "Failed to retrieve incidents"


async def test_i4_a_valid_incident_is_stored_as_it_was_sent() -> None:
    store = MemoryStore()
    status, told = await answer(store, "POST", START, body=VALID)
    assert (status, store.calls) == (201, ["start"])
    [stored] = store.incidents
    assert told == {"id": str(stored.id), "message": "Incident started successfully"}
    assert (stored.title, stored.description) == (VALID["title"], VALID["description"])
    assert (stored.reporter, stored.severity, stored.owner) == ("sre", "HIGH", "platform")
    assert (stored.status, stored.end_time.year, stored.id.version) == ("OPEN", 1, 4)
    assert stored.start_time.year > 2000
    assert [note.message for note in stored.initial_notes or ()] == ["first look"]


async def test_i5_a_start_without_a_body_never_reaches_the_store() -> None:
    assert (await refused(None)).startswith("Invalid request body")


async def test_i6_an_id_that_is_taken_is_a_409() -> None:
    store = FixedStore()
    status, told = await answer(store, "POST", START, body=VALID)
    assert (status, store.calls) == (409, ["start"])
    assert "same ID" in told["message"]


async def test_i7_a_store_that_fails_to_write_is_a_500() -> None:
    store = FailingStore()
    status, told = await answer(store, "POST", START, body=VALID)
    assert (status, store.calls) == (500, ["start"])
    assert told["message"] == "Failed to store incident"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param({**VALID, "title": ""}, ["Validation failed", "title"], id="i8"),
        pytest.param(
            {**VALID, "title": "AB"}, ["Validation failed", "title", "at least 3"], id="i9"
        ),
        pytest.param(
            {**VALID, "description": "Short"},
            ["Validation failed", "description", "at least 10"],
            id="i10",
        ),
        pytest.param(
            {**VALID, "severity": "INVALID"},
            ["Validation failed", "severity", "must be one of"],
            id="i11",
        ),
        pytest.param({"title": "Only a title"}, ["Validation failed"], id="i12"),
    ],
)
async def test_i8_to_i12_a_broken_rule_never_reaches_the_store(
    body: Mapping[str, object], words: list[str]
) -> None:
    message = await refused(body)
    assert all(word in message for word in words)


@pytest.mark.parametrize("path", ["/", "/home"])
async def test_s1_and_s2_the_service_greets(path: str) -> None:
    store = MemoryStore()
    assert await answer(store, "GET", path) == (200, {"message": "Welcome to the PostFacta API!"})
    assert store.calls == []


async def test_s3_the_service_is_healthy() -> None:
    assert await answer(MemoryStore(), "GET", "/healthz") == (200, {"status": "healthy"})


async def test_s4_the_service_tells_what_it_is() -> None:
    status, told = await answer(MemoryStore(), "GET", "/service-info")
    assert status == 200
    assert told["name"] == "PostFacta API"
    assert told["codebase"]["license"] == "BSD-3-Clause"
    assert told["uptime"]


async def test_s5_an_unknown_path_is_named() -> None:
    status, told = await answer(MemoryStore(), "GET", "/does-not-exist")
    assert status == 404
    assert "does not exist" in told["message"]
    assert "/does-not-exist" in told["message"]


async def test_two_starts_give_two_ids() -> None:
    store = MemoryStore()
    await answer(store, "POST", START, body=VALID)
    await answer(store, "POST", START, body=VALID)
    assert len({incident.id for incident in store.incidents}) == 2


async def test_one_incident_can_be_read_by_its_id() -> None:
    store = MemoryStore(FixedStore().incidents)
    status, told = await answer(store, "GET", f"{LIST}/22222222-2222-4222-8222-222222222222")
    assert status == 200
    assert told["owner"] == "platform"


async def test_an_unknown_id_is_not_found() -> None:
    status, told = await answer(MemoryStore(), "GET", f"{LIST}/{UUID(int=0)}")
    assert status == 404
    assert told["message"] == "Incident not found"


async def test_a_malformed_idempotency_key_never_reaches_the_store() -> None:
    store = MemoryStore()
    async with a_client(an_application(store)) as client:
        response = await client.post(START, json=VALID, headers={"Idempotency-Key": '"'})
    assert (response.status_code, store.calls) == (400, [])
