"""The demo has complete incidents, recorded through the service's own rules."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

import pytest

from postfacta_app.demo import record
from postfacta_core.clock import WALL
from postfacta_postgres import Database
from tests.app.live import Service, in_process

CHECKOUT, SIGN_IN, PAYMENTS = "INC-4", "INC-5", "INC-7"


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    """Serve the samples, to a reader."""
    async with Database(shared_app_dsn) as database:
        await database.wait_connected()
        async with database.transaction() as connection:
            await record(connection, now=datetime.fromtimestamp(WALL(), UTC))
    async with in_process(shared_app_dsn) as running:
        running.client.headers.update(await running.as_role("viewer"))
        yield running


async def read(service: Service, path: str, **query: str) -> Any:
    answer = await service.client.get(f"/api/v1/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_three_incidents_have_facts_of_machines_and_of_people(service: Service) -> None:
    items = (await read(service, "incidents", sort="declared_at"))["items"]
    told = {
        f"INC-{it['number']}": {
            entry["source"]
            for entry in (await read(service, f"incidents/{it['id']}/timeline"))["items"]
        }
        for it in items
    }
    assert len(told) == 7
    rich = {ref: sources for ref, sources in told.items() if "alertmanager" in sources}
    assert rich.keys() == {PAYMENTS, SIGN_IN, CHECKOUT}
    assert all(any(source.startswith("manual/") for source in sources) for sources in rich.values())
    assert rich[CHECKOUT] >= {"ci", "edge-logs", "human", "postfacta"}


async def test_a_clock_that_was_slow_is_put_right_and_the_error_comes_after_its_cause(
    service: Service,
) -> None:
    timeline = (await read(service, f"incidents/{CHECKOUT}/timeline"))["items"]
    (deploy,) = (entry for entry in timeline if entry["id"] == "checkout-4.12-us-east")
    (first,) = (entry for entry in timeline if entry["id"] == "edge-90011")
    assert first["occurred_at"] < deploy["t"] < first["t"]
    edits = (await read(service, f"incidents/{CHECKOUT}/edits"))["items"]
    assert [bool(edit["reason"]) for edit in edits if edit["op"] == "clock_offset"] == [True]


async def test_sources_contradict_each_other_and_nothing_is_made_up(service: Service) -> None:
    durations = await read(service, f"incidents/{SIGN_IN}/durations")
    assert durations["durations"]["detect"]["status"] == "invalid_order"
    assert durations["durations"]["detect"]["seconds"] is None
    assert durations["durations"]["acknowledge"]["status"] == "ok"
    timeline = (await read(service, f"incidents/{SIGN_IN}/timeline"))["items"]
    assert [entry["id"] for entry in timeline if entry["conflicts"]] == ["tls-expired"]


async def test_one_post_mortem_is_published_and_stands_on_its_timeline(service: Service) -> None:
    published = await read(service, f"incidents/{CHECKOUT}/postmortem")
    assert (published["status"], published["timeline_changed"]) == ("published", False)
    assert (await read(service, f"incidents/{SIGN_IN}/postmortem"))["status"] == "in_review"
    entries = (await read(service, f"incidents/{CHECKOUT}/timeline", include_hidden="true"))[
        "items"
    ]
    known = {(entry["source"], entry["id"]) for entry in entries}
    assert {
        (it["source"], it["id"])
        for factor in published["content"]["factors"]
        for it in factor["evidence"]
    } <= known


async def test_what_was_thought_and_what_is_to_be_done_is_there(service: Service) -> None:
    said = (await read(service, f"incidents/{CHECKOUT}/annotations"))["items"]
    assert [it["kind"] for it in said if it["state"] == "refuted"] == ["hypothesis"]
    actions = (await read(service, "action-items"))["items"]
    assert len(actions) == 5
    assert all(action["owner"] and action["due_on"] for action in actions)
    assert len((await read(service, "action-items", overdue="true"))["items"]) == 1
    (link,) = (await read(service, f"incidents/{SIGN_IN}/links"))["items"]
    assert (link["type"], f"INC-{link['incident']['number']}") == ("related", CHECKOUT)
