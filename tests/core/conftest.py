"""Two event loops, in virtual time where nothing else is waited for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.virtual import in_virtual_time

IN_VIRTUAL_TIME = (
    "guards/test_timeout",
    "deadlines/test_requests",
    "health/test_registry",
    "drain/test_resources",
)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, Any]]:
    """Run each async test on both loops; a sleep costs no time in the modules that are listed."""
    story = f"{request.path.parent.name}/{request.path.stem}"
    return in_virtual_time(request.param) if story in IN_VIRTUAL_TIME else request.param
