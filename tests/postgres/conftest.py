"""A PostgreSQL that a test may kill."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from postfacta_embedded import EmbeddedPostgres
from tests.kit.pg import prepared_server


@pytest.fixture
def own_server(programs: None) -> Generator[EmbeddedPostgres]:
    """Run a server for one test alone."""
    with prepared_server() as server:
        yield server
