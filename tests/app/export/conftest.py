"""A running application for each module, and one incident for each test."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.app.desk import Desk, desk_of
from tests.app.live import Service, in_process


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    async with in_process(shared_app_dsn) as running:
        yield running


@pytest.fixture
async def desk(service: Service) -> Desk:
    return await desk_of(service)
