"""No cache may share a response of the API between callers: each response says so."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from uuid import uuid4

import pytest

from tests.app.live import Service, in_process
from tests.app.test_access import table
from tests.kit.every import every

RULES = [rule for rule in table() if rule.path.startswith("/api/")]


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    """Run the service."""
    async with in_process(shared_app_dsn) as running:
        yield running


@pytest.mark.parametrize("sender", ["admin", "nobody"])
async def test_each_answer_of_the_api_is_private(service: Service, sender: str) -> None:
    with every() as case:
        for rule in RULES:
            with case(rule.method, rule.path):
                incident = await service.record(await service.as_role("admin"))
                path = rule.path.replace("{ref}", incident["id"]).replace(
                    "{id:uuid}", incident["id"]
                )
                for name in ("id", "root", "target", "type", "rev"):
                    path = path.replace(f"{{{name}}}", str(uuid4()))
                headers = await service.as_role("admin") if sender == "admin" else {}
                answer = await service.client.request(rule.method, path, headers=headers)
                assert answer.headers["cache-control"] in {"private, no-cache", "no-store"}
                assert {"Authorization", "Cookie"} <= {
                    it.strip() for it in answer.headers["vary"].split(",")
                }
                if answer.status_code == 200:
                    assert answer.headers["cache-control"] == "private, no-cache"


async def test_an_answer_that_has_not_changed_is_private_too(service: Service) -> None:
    admin = await service.as_role("admin")
    incident = await service.record(admin)
    path = f"/api/v1/incidents/{incident['id']}/timeline"
    etag = (await service.client.get(path, headers=admin)).headers["etag"]
    answer = await service.client.get(path, headers=admin | {"If-None-Match": etag})
    assert answer.status_code == 304
    assert answer.headers["cache-control"] == "private, no-cache"
    assert "Cookie" in answer.headers["vary"]


async def test_what_is_no_route_of_the_api_is_answered_privately(service: Service) -> None:
    answer = await service.client.get("/api/v1/nothing")
    assert answer.status_code == 404
    assert answer.headers["cache-control"] == "no-store"
    assert "Authorization" in answer.headers["vary"]
