"""Links to pages work with the parameters that mailers and trackers add; the API refuses them."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.app.desk import FULL, Desk, desk_of
from tests.app.live import Service, in_process
from tests.app.screen import Screen
from tests.kit.every import every


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    async with in_process(shared_app_dsn) as running:
        yield running


@pytest.fixture
async def desk(service: Service) -> Desk:
    return await desk_of(service)


async def test_pages_ignore_parameters_that_they_do_not_know(desk: Desk, service: Service) -> None:
    await desk.publish(FULL)
    one, screen = f"/incidents/{desk.ref}", await Screen.of(service, "admin")
    pages = [
        *(
            "/incidents",
            "/incidents/new",
            "/insights",
            "/actions",
            "/reliability",
            "/people",
            "/account",
        ),
        *(one, f"{one}/actions", f"{one}/history"),
        *(f"{one}/postmortem", f"{one}/postmortem/revisions", f"{one}/postmortem/revisions/1"),
    ]
    with every() as case:
        for page in pages:
            with case(page):
                await screen.get(f"{page}?utm_source=mail&fbclid=1")
    await desk.send("GET", "/api/v1/incidents?utm_source=mail", expect=400)
