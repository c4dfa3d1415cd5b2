"""The whole service on a real database, and what the tests of signals send to it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from tests.app.live import Service, in_process

Body = dict[str, Any]
Headers = dict[str, str]

SIGNALS = "/api/v1/signals"
ALERTMANAGER = "/api/v1/ingest/alertmanager"
DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    """Run the service; each test sends under a source of its own."""
    async with in_process(shared_app_dsn) as running:
        yield running


def recorded(name: str) -> Body:
    """Read a notification that a real Alertmanager sent."""
    body: Body = json.loads((DATA / f"{name}.json").read_text())
    return body


def item(**fields: object) -> Body:
    """Make an item that is good."""
    return {"kind": "note", "title": "Somebody looked at it", **fields}


async def send(service: Service, headers: Headers, *items: object, **more: object) -> Body:
    """Send items that are all read, and give the answer.

    Again, as a client would, while a busy machine has no connection.
    """
    with anyio.fail_after(60):
        while True:
            answer = await service.client.post(
                SIGNALS, json={"items": items, **more}, headers=headers
            )
            if answer.status_code != 503 or answer.json()["type"] != "/problems/unavailable":
                break
            await anyio.sleep(0.1)
    assert answer.status_code == 200, answer.text
    body: Body = answer.json()
    return body


async def sent(service: Service, headers: Headers, *items: object, **more: object) -> list[str]:
    """Send items, and give the word for each."""
    return [it["result"] for it in (await send(service, headers, *items, **more))["results"]]


async def get(service: Service, path: str, headers: Headers) -> httpx2.Response:
    """Read something."""
    return await service.client.get(path, headers=headers)
