"""What the app's tests share.

A migrated database of their own, made from a template in a few milliseconds.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Generator, Iterator
from typing import TYPE_CHECKING

import anyio
import pytest

from postfacta_app.migrations import upgrade
from postfacta_embedded import EmbeddedPostgres
from postfacta_postgres import Database, PoolOptions
from tests.app.browsing import chromium, session_of
from tests.app.running import LiveService, live_service
from tests.kit.pg import create_database, fresh_database

if TYPE_CHECKING:  # the fast tests do without Chromium
    from playwright.sync_api import Browser, StorageState


def _ignore(message: str) -> None:
    """Ignore the call."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Use asyncio: the service and asyncpg know no other loop."""
    return "asyncio"


@pytest.fixture(scope="session")
def app_template(postgres_server: EmbeddedPostgres) -> str:
    """Name a migrated database without connections."""
    upgrade(create_database(postgres_server, "app_template"), progress=_ignore)
    return "app_template"


@pytest.fixture
def app_database_dsn(postgres_server: EmbeddedPostgres, app_template: str) -> Iterator[str]:
    """Give the owner's address of a fresh, migrated database."""
    with fresh_database(postgres_server, app_template) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def shared_app_dsn(postgres_server: EmbeddedPostgres, app_template: str) -> Iterator[str]:
    """Give the address of a migrated database to a module whose tests leave nothing behind."""
    with fresh_database(postgres_server, app_template) as dsn:
        yield dsn


@pytest.fixture
async def app_database(app_database_dsn: str) -> AsyncGenerator[Database]:
    """Give the connection pool of a fresh, migrated database."""
    # Patient enough for a busy machine: the tests are about what happens, not about how fast.
    options = PoolOptions(acquire_timeout=30, max_waiting=200, lock_timeout=3)
    async with Database(app_database_dsn, options=options) as database:
        with anyio.fail_after(10):
            await database.wait_connected()
        yield database


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the settings of the user who runs the tests."""
    for name in os.environ:
        if name.startswith("POSTFACTA_") or name in {
            "ENVIRONMENT",
            "APP_VERSION",
            "LOG_LEVEL",
            "LOG_FORMAT",
        }:
            monkeypatch.delenv(name)


@pytest.fixture
def migrated(
    clean_environment: None, app_database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Set a migrated database as the one to use."""
    monkeypatch.setenv("POSTFACTA_DATABASE_DSN", app_database_dsn)
    return app_database_dsn


@pytest.fixture
def taken_port() -> Iterator[int]:
    """Listen somewhere."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture(scope="session")
def live(
    programs: None, postgres_server: EmbeddedPostgres, app_template: str
) -> Generator[LiveService]:
    """Run the whole service for all tests that look from outside; each uses data of its own."""
    with live_service(postgres_server, app_template) as running:
        yield running


@pytest.fixture(scope="module")
def browser(chromiums: None, live: LiveService) -> Generator[Browser]:
    """Run a Chromium for a module; it starts after the service, as it must."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def signed_in() -> list[StorageState]:
    """Hold the cookies of an administrator for all modules: sign-ins are throttled."""
    return []


@pytest.fixture(scope="module")
def session(browser: Browser, live: LiveService, signed_in: list[StorageState]) -> StorageState:
    """Give the cookies of an administrator who has signed in once."""
    if not signed_in:
        signed_in.append(session_of(browser, live.url))
    return signed_in[0]
