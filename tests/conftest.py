"""What all tests share: both event loops, and one real PostgreSQL for the whole run."""

from __future__ import annotations

import gc
import signal
from collections.abc import Generator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.kit.fair import in_fair_time

# isort: split
# The clock of the tests is in place: what follows binds it.
from postfacta_core.events import process_observer
from postfacta_core.guards._guard import registry
from postfacta_embedded import EmbeddedPostgres
from tests.kit.pg import fresh_database, open_folder
from tests.kit.watch import sparing

# A shell, or nohup, starts what runs in its background with these ignored, and what is started from
# here would inherit it.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(
            _number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL
        )

pytest_plugins = ["tests.kit.tiers", "tests.kit.pace"]

# None has a deadline by the wall clock, nor a bound on the making of examples: a busy machine would
# miss it. The same change has the same examples by day; `make proofs` looks for new ones.
settings.register_profile("base", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", settings.get_profile("base"), max_examples=50, derandomize=True)
settings.register_profile("ci", settings.get_profile("base"), max_examples=100, derandomize=True)
settings.register_profile("night", settings.get_profile("base"), max_examples=1000)
settings.load_profile("dev")


@pytest.fixture(scope="session")
def programs() -> None:
    """Allow a test to start programs, and put it into the tier `process`."""


@pytest.fixture(scope="session")
def chromiums() -> None:
    """Allow a test to start Chromium, and put it into the tier `browser`."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each async test on both loops; a module that needs asyncio overrides this."""
    return str(request.param)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let the collector of garbage look at what tests make, not at all that they import."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
    """Run each loop in fair time, unless its options say otherwise: `"asyncio", {}` is plain."""
    value = yield
    if fixturedef.argname == "anyio_backend" and isinstance(value, str):
        value = in_fair_time(value)
        assert fixturedef.cached_result is not None
        fixturedef.cached_result = (value, fixturedef.cached_result[1], None)
    return value


@pytest.fixture(scope="session")
def postgres_server() -> Generator[EmbeddedPostgres]:
    """Run one PostgreSQL for all tests, from the first that asks to the end of the run."""
    # Its data dies with the run, so it need not survive a crash of the machine.
    settings = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
    with ExitStack() as stack:
        with sparing():
            folder = stack.enter_context(open_folder())
            server = stack.enter_context(EmbeddedPostgres(folder / "data", settings=settings))
        yield server
        with sparing():
            stack.close()


@pytest.fixture
def database_dsn(postgres_server: EmbeddedPostgres) -> Generator[str]:
    """Give the test an empty database of its own, by its address."""
    with fresh_database(postgres_server) as dsn:
        yield dsn


@pytest.fixture(autouse=True)
def _unobserved() -> Generator[None]:
    """Let no test report to another one's `Telemetry`, nor show or meet the policies of another."""
    process_observer.clear()
    registry.clear()
    yield
    process_observer.clear()
