"""What all tests share: both event loops, and one real PostgreSQL for the whole run."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from postfacta_embedded import EmbeddedPostgres
from tests.pg import fresh_database, open_folder


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each async test on both loops; a module that needs asyncio overrides this."""
    return str(request.param)


@pytest.fixture(scope="session")
def postgres_server() -> Generator[EmbeddedPostgres]:
    """Run one PostgreSQL for all tests, from the first that asks to the end of the run."""
    # Its data dies with the run, so it need not survive a crash of the machine.
    settings = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
    with open_folder() as folder, EmbeddedPostgres(folder / "data", settings=settings) as server:
        yield server


@pytest.fixture
def database_dsn(postgres_server: EmbeddedPostgres) -> Generator[str]:
    """Give the test an empty database of its own, by its address."""
    with fresh_database(postgres_server) as dsn:
        yield dsn
