"""A PostgreSQL that a test may kill."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from postfacta_embedded import EmbeddedPostgres
from tests.pg import open_folder


@pytest.fixture
def own_server() -> Generator[EmbeddedPostgres]:
    """Run a server for one test alone."""
    with open_folder() as folder, EmbeddedPostgres(folder / "data") as server:
        yield server
