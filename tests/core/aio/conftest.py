"""Two event loops, in virtual time where nothing else is waited for; and a PostgreSQL that a test may kill."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from postfacta_embedded import EmbeddedPostgres
from tests.core.virtual import in_virtual_time
from tests.kit.pg import prepared_server

IN_VIRTUAL_TIME = ("deadline", "health", "looplag", "resources", "timeout")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, Any]]:
    """Run each async test on both loops; a sleep costs no time in the modules that are listed."""
    story = request.path.stem.removeprefix("test_")
    return in_virtual_time(request.param) if story in IN_VIRTUAL_TIME else request.param


@pytest.fixture
def own_server(programs: None) -> Generator[EmbeddedPostgres]:
    """Run a server for one test alone."""
    with prepared_server() as server:
        yield server
