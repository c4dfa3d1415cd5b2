"""What attackers of the app share: a database to attack, and one event loop."""

from __future__ import annotations

import pytest

from postfacta_app.migrations import upgrade
from postfacta_embedded import EmbeddedPostgres
from tests.app.conftest import app_database, app_database_dsn, shared_app_dsn
from tests.kit.pg import create_database

__all__ = ["anyio_backend", "app_database", "app_database_dsn", "app_template", "shared_app_dsn"]


@pytest.fixture(scope="session")
def app_template(postgres_server: EmbeddedPostgres) -> str:
    """Name a migrated database without connections, beside the one of the app's own tests."""
    upgrade(create_database(postgres_server, "attack_template"), progress=lambda _: None)
    return "attack_template"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Use asyncio: asyncpg knows no other loop."""
    return "asyncio"
