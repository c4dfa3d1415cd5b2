"""The whole service on a real database, and what the tests of timelines send to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from tests.app.live import Service, in_process

__all__ = ["Body", "Case", "a_case"]

Body = dict[str, Any]


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    """Run the service; each test records an incident of its own."""
    async with in_process(shared_app_dsn) as running:
        yield running


@dataclass
class Case:
    """An incident, and a responder who works on it."""

    service: Service
    headers: Mapping[str, str]
    id: str
    number: int

    @property
    def path(self) -> str:
        return f"/api/v1/incidents/INC-{self.number}"

    @property
    def source(self) -> str:
        """Where its signals come from: each case has a source of its own."""
        return f"manual/ci-{self.number}"

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """Send a request about the incident, as the responder unless another user is named."""
        if not path.startswith("/"):
            path = f"{self.path}/{path}"
        given = {**self.headers, **(headers or {})}
        return await self.service.client.request(method, path, json=body, headers=given)

    async def get(self, path: str) -> Any:
        answer = await self.send("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, body: Body) -> Any:
        answer = await self.send("POST", path, body)
        assert answer.status_code in {200, 201}, answer.text
        return answer.json()

    async def signals(self, *items: Body) -> None:
        """Send signals, and attach them."""
        mine = [{"source": f"ci-{self.number}", **item} for item in items]
        told = await self.post("/api/v1/signals", {"incident": self.id, "items": mine})
        assert {it["result"] for it in told["results"]} <= {"created", "conflict", "duplicate"}, (
            told
        )

    async def edit(self, op: str, entry: tuple[str, str] | None = None, **fields: object) -> Any:
        """Write an edit; give the answer."""
        target = {} if entry is None else {"entry": {"source": entry[0], "id": entry[1]}}
        return await self.post("edits", {"op": op, **target, **fields})

    async def titles(self, query: str = "") -> list[str]:
        """Read the titles of the timeline."""
        return [it["title"] for it in (await self.get(f"timeline{query}"))["items"]]


async def a_case(service: Service, **fields: object) -> Case:
    """Record an incident."""
    headers = await service.as_role("responder")
    made = await service.record(headers, declared_at="2026-02-07T10:05:00Z", **fields)
    return Case(service, headers, made["id"], made["number"])
