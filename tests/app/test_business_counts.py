"""What is counted of the business is what was committed, once, and how each proof of identity ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.app.live import NEW, START, V0, Service, in_process

OPENED = "postfacta_incidents_opened_total"
MOVED = "postfacta_incident_transitions_total"
ATTEMPTS = "postfacta_auth_attempts_total"


@pytest.fixture
async def service(app_database_dsn: str) -> AsyncGenerator[Service]:
    async with in_process(app_database_dsn) as running:
        yield running


async def counted(service: Service, metric: str) -> dict[tuple[str, ...], float]:
    answer = await service.client.get("/metrics")
    return {
        tuple(sample.labels.values()): sample.value  # In the order of the labels' names.
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == metric
    }


async def send(service: Service, method: str, path: str, **request: Any) -> httpx2.Response:
    return await service.client.request(method, path, **request)


async def test_an_incident_is_counted_when_it_is_committed_and_not_when_it_is_replayed(
    service: Service,
) -> None:
    responder = await service.as_role("responder")
    once = {**responder, "Idempotency-Key": "the-first-one"}
    for _ in range(3):
        assert (
            await send(service, "POST", "/api/v1/incidents", json=NEW, headers=once)
        ).status_code == 201
    assert (await send(service, *V0, json=START, headers=responder)).status_code == 201
    assert (
        await send(service, "POST", "/api/v1/incidents", json={}, headers=responder)
    ).status_code == 422
    await service.record(responder, severity="LOW")
    await service.record(responder, kind="exercise")
    assert await counted(service, OPENED) == {("HIGH",): 2, ("LOW",): 1}


async def test_a_move_is_counted_with_where_it_came_from_and_only_if_it_is_one(
    service: Service,
) -> None:
    responder = await service.as_role("responder")
    await service.record(responder)
    moves = "/api/v1/incidents/INC-1/transitions"
    for to, status in (
        ("IN_PROGRESS", 201),
        ("IN_PROGRESS", 200),
        ("RESOLVED", 201),
        ("OPEN", 409),
    ):
        assert (
            await send(service, "POST", moves, json={"to": to}, headers=responder)
        ).status_code == status
    assert await counted(service, MOVED) == {
        ("OPEN", "HIGH", "IN_PROGRESS"): 1,
        ("IN_PROGRESS", "HIGH", "RESOLVED"): 1,
    }


async def test_what_the_database_refuses_is_not_counted(service: Service) -> None:
    responder = await service.as_role("responder")
    await service.database.execute(
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$"
    )
    await service.database.execute(
        "create constraint trigger refuse after insert on incidents deferrable initially deferred"
        " for each row execute function refuse()"
    )
    answer = await send(service, "POST", "/api/v1/incidents", json=NEW, headers=responder)
    assert answer.status_code == 500
    assert await counted(service, OPENED) == {}


async def test_each_way_in_which_a_token_proves_something_or_nothing_is_counted(
    service: Service,
) -> None:
    before = await counted(service, ATTEMPTS)
    person = await service.person("viewer")
    gone = await service.person("viewer", disabled=True)
    for headers in (
        await service.bearer(person),
        await service.bearer(person, expired=True),
        await service.bearer(person, revoked=True),
        await service.bearer(gone),
        {"Authorization": f"Bearer {'x' * 43}"},
        {"Authorization": "Bearer of-no-form"},
    ):
        for _ in range(2):
            await send(service, "GET", "/api/v1/me", headers=headers)
    after = await counted(service, ATTEMPTS)
    assert {key: value - before.get(key, 0) for key, value in after.items()} == {
        ("token", "ok"): 1,  # It is trusted for ten seconds.
        ("token", "expired"): 2,
        ("token", "revoked"): 4,
        ("token", "bad_credentials"): 4,
    }


async def test_each_way_in_which_a_sign_in_ends_is_counted(service: Service) -> None:
    admin = await service.as_role("admin")
    somebody = {"email": "somebody@example.org", "password": "a password for a test"}
    made = await send(service, "POST", "/api/v1/users", json=somebody, headers=admin)
    assert made.status_code == 201
    wrong = {**somebody, "password": "another password"}
    assert (await send(service, "POST", "/login", json=somebody)).status_code == 200
    refused = 0
    # A slow machine gets more tries, since one is given back each twelve seconds.
    while (status := (await send(service, "POST", "/login", json=wrong)).status_code) != 429:
        assert status == 401
        refused += 1
    assert refused >= 4
    told = {
        key: value
        for key, value in (await counted(service, ATTEMPTS)).items()
        if key[0] == "password"
    }
    # In the order of the labels' names: mode, outcome.
    assert told == {
        ("password", "ok"): 1,
        ("password", "bad_credentials"): refused,
        ("password", "limited"): 1,
    }
