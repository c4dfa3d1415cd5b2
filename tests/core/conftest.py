"""Two event loops, in virtual time where nothing else is waited for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.virtual import in_virtual_time

IN_VIRTUAL_TIME = (
    "core/test_cancellation",
    "core/test_composition",
    "core/test_events",
    "deadlines/test_requests",
    "drain/test_resources",
    "drain/test_work",
    "feed/test_feed",
    "guards/test_breaker",
    "guards/test_breaker_permits",
    "guards/test_bulkhead",
    "guards/test_fallback",
    "guards/test_guard",
    "guards/test_hedge",
    "guards/test_pipeline",
    "guards/test_retry",
    "guards/test_slots",
    "guards/test_timeout",
    "health/test_registry",
    "limits/test_rate",
)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, Any]]:
    """Run each async test on both loops; a sleep costs no time in the modules that are listed."""
    story = f"{request.path.parent.name}/{request.path.stem}"
    return in_virtual_time(request.param) if story in IN_VIRTUAL_TIME else request.param
