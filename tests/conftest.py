"""What all tests share: both event loops, one real PostgreSQL for the whole run, and what becomes of long tests."""

from __future__ import annotations

import signal
from collections.abc import Generator, Sequence

import pytest
from hypothesis import settings

from postfacta_core.events import process_observer
from postfacta_embedded import EmbeddedPostgres
from tests.pg import fresh_database, open_folder

# A shell, or nohup, starts what runs in its background with these ignored, and what is started from here would inherit it.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

settings.register_profile("long", max_examples=1000)
_NOT_RUN = pytest.StashKey[int]()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count the long tests that this run leaves out."""
    for item in items:
        if item.get_closest_marker("long") is not None:
            item.config.stash[_NOT_RUN] = item.config.stash.get(_NOT_RUN, 0) + 1


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Say, in the last line of all, how many that were and how they are run."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and (count := session.config.stash.get(_NOT_RUN, 0)):
        reporter.write_line(f"{count} long tests did not run: pytest -m long")


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


@pytest.fixture(autouse=True)
def _unobserved() -> Generator[None]:
    """Let no test report to another one's `Telemetry`, nor show the policies of another."""
    process_observer.clear()
    yield
    process_observer.clear()
