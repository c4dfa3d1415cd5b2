"""The API of durations tells what is known, of one incident and of all that fit the filters."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.app.live import Service, in_process
from tests.app.timeline.conftest import a_case

LIST = "/api/v1/durations"


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    """Run the service; each test looks at a service of its own name."""
    async with in_process(shared_app_dsn) as running:
        yield running


async def test_one_incident_tells_its_milestones_and_what_lies_between(service: Service) -> None:
    case = await a_case(service)
    fired = {
        "kind": "alert_firing",
        "id": "a",
        "title": "Firing",
        "occurred_at": "2026-02-07T10:04:30Z",
    }
    await case.signals(
        fired,
        {"kind": "change", "id": "b", "title": "Deploy", "occurred_at": "2026-02-07T10:00:00Z"},
    )
    await case.post("transitions", {"to": "IN_PROGRESS", "occurred_at": "2026-02-07T10:10:30Z"})
    started = {"name": "impact_started", "at": "2026-02-07T10:04:59Z", "precision": "minute"}
    await case.edit("milestone", value=started)
    told = await case.get("durations")
    assert told["incident"] == f"INC-{case.number}"
    assert told["milestones"] == {
        "declared": {"t": "2026-02-07T10:05:00.000000Z", "p": "exact", "basis": "derived"},
        "detected": {"t": "2026-02-07T10:04:30.000000Z", "p": "exact", "basis": "derived"},
        "acknowledged": {"t": "2026-02-07T10:10:30.000000Z", "p": "exact", "basis": "derived"},
        "impact_started": {"t": "2026-02-07T10:04:00.000000Z", "p": "minute", "basis": "given"},
    }
    imprecise = {
        "seconds": None,
        "status": "imprecise",
        "basis": "derived",
        "precision": "minute",
        "max_seconds": 60.0,
    }
    known = {
        "seconds": 360.0,
        "status": "ok",
        "basis": "derived",
        "precision": "exact",
        "max_seconds": None,
    }
    pending = {
        "seconds": None,
        "status": "pending",
        "basis": None,
        "precision": None,
        "max_seconds": None,
    }
    assert told["durations"] == {
        "detect": imprecise, "acknowledge": known, "mitigate": pending, "resolve": pending, "open": pending,
    }  # fmt: skip


async def test_an_aggregate_counts_every_incident_of_the_filter_once(service: Service) -> None:
    refs: list[str] = []
    for minutes in (1, 2, 3, 4, 30):
        case = await a_case(service, services=["counted"])
        end = f"2026-02-07T10:{5 + minutes:02}:00Z"
        await case.post("transitions", {"to": "CLOSED", "outcome": "fixed", "occurred_at": end})
        refs.append(f"INC-{case.number}")
    backwards = await a_case(service, services=["counted"])
    await backwards.post("transitions", {"to": "RESOLVED", "occurred_at": "2026-02-07T10:00:00Z"})
    still = await a_case(service, services=["counted"])
    await a_case(service, services=["counted"], kind="near_miss")
    await a_case(service, services=["counted"], kind="exercise")
    await a_case(service, services=["counted"], visibility="private")
    stranger = await service.as_role("viewer")
    answer = await service.client.get(f"{LIST}?service=counted", headers=stranger)
    told = answer.json()["durations"]["open"]
    points = told.pop("points")
    assert told == {
        "n_ok": 5, "n_imprecise": 0, "n_invalid": 1, "n_pending": 1, "n_missing": 0, "min": 60.0, "p50": 180.0,
        "p90": None, "max": 1800.0, "insufficient_data": ["p90"],
    }  # fmt: skip
    assert answer.json()["n"] == 7
    assert {it["incident"]: it["y"] for it in points} == dict(
        zip(refs, (60.0, 120.0, 180.0, 240.0, 1800.0), strict=True)
    )
    assert {it["x"] for it in points} == {"2026-02-07T10:05:00.000000Z"}
    detect = answer.json()["durations"]["detect"]
    assert (detect["n_missing"], detect["p50"], detect["points"]) == (7, None, [])
    opened = await service.client.get(f"{LIST}?service=counted&status=OPEN", headers=stranger)
    assert (opened.json()["n"], opened.json()["durations"]["open"]["n_pending"]) == (1, 1)
    every = await service.client.get(
        f"{LIST}?service=counted&kind=incident&kind=near_miss", headers=still.headers
    )
    assert every.json()["n"] == 8


async def test_more_incidents_than_are_read_at_once_are_counted_once(service: Service) -> None:
    insert = """
    insert into incidents (id, title, description, severity, reporter, services, declared_at, created_by, timeline_at)
    select gen_random_uuid(), 'One of many', 'Made by a test', 'LOW', 'test', '{many}', now(), 'test', now()
      from generate_series(1, 250)"""
    await service.database.execute(insert)
    answer = await service.client.get(
        f"{LIST}?service=many", headers=await service.as_role("viewer")
    )
    assert answer.json()["n"] == 250
    # There is no row of a declaration, so nothing is known; and nothing of it is a number.
    assert all(it["n_ok"] == 0 and it["min"] is None for it in answer.json()["durations"].values())
