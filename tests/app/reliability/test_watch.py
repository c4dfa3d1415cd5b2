"""Reading objectives in the background: what is kept, and what a bad Prometheus cannot do."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import anyio
import anyio.to_thread
import pytest

from postfacta_app.reliability.pages import Watch
from postfacta_slo.status.prometheus import Prometheus
from tests.app.reliability.told import Told
from tests.kit.waiting import until

PATIENCE = 20.0


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run on both: nothing here knows a database."""
    return str(request.param)


def a_watch(url: str, *, interval: float = 0.01, clock: Callable[[], float] = time.monotonic) -> Watch:
    return Watch(lambda: Prometheus(url, timeout=1.0), interval=interval, clock=clock)


async def test_what_was_read_is_there_with_its_age(told: Told) -> None:
    now = [100.0]
    watch = a_watch(told.url, interval=60, clock=lambda: now[0])
    assert (watch.seen, watch.age()) == (None, 0.0)
    async with watch.running():
        await until(lambda: watch.seen is not None)
    assert watch.seen is not None
    assert [one.slo for one in watch.seen] == ["availability"]
    assert watch.seen[0].remaining == pytest.approx(0.6)
    now[0] = 142.0
    assert watch.age() == 42.0


async def test_a_new_address_is_read_the_next_time(told: Told) -> None:
    current = [Prometheus("http://127.0.0.1:9", timeout=1.0)]
    watch = Watch(lambda: current[-1], interval=0.01)
    assert watch.name == "http://127.0.0.1:9"
    async with watch.running():
        await until(lambda: bool(watch.error))
        current.append(Prometheus(told.url.replace("//", "//me:secret@"), timeout=1.0))
        await until(lambda: watch.seen is not None)
    assert watch.name == told.url


@pytest.mark.parametrize(
    "broken", ["<html>", '{"status": "success", "data": {"resultType": "vector", "result": [{}]}}']
)
async def test_what_was_read_last_is_kept_while_nothing_can_be_read(told: Told, broken: str) -> None:
    watch = a_watch(told.url)
    async with watch.running():
        await until(lambda: watch.seen is not None)
        told.broken = broken
        await until(lambda: bool(watch.error))
        kept = watch.seen
        assert kept is not None
        assert kept[0].slo == "availability"
        told.broken = ""
        await until(lambda: not watch.error)
        assert watch.seen is not kept


async def test_what_could_not_be_read_is_asked_for_again_before_the_interval_is_over(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postfacta_app.reliability.pages._AGAIN", 0.01)
    watch, told.broken = a_watch(told.url, interval=3600), "<html>"
    async with watch.running():
        await until(lambda: bool(watch.error))
        told.broken = ""
        await until(lambda: watch.seen is not None)


async def test_a_fault_of_our_own_ends_neither_the_reading_nor_the_service(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = a_watch(told.url)
    with monkeypatch.context() as broken:
        broken.setattr("postfacta_app.reliability.pages.query_status", None)
        async with watch.running():
            await until(lambda: watch.error == "TypeError")
            broken.undo()
            await until(lambda: watch.seen is not None)


async def test_one_that_never_answers_does_not_hold_up_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE / 2)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        watch = Watch(lambda: Prometheus(url, timeout=2 * PATIENCE))
        with anyio.fail_after(PATIENCE):
            async with watch.running():
                asked, _ = await anyio.to_thread.run_sync(silent.accept)
        asked.close()
    assert watch.seen is None
