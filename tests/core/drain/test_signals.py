"""A signal is reported immediately, held back until it is released or closed, and passed on at most once."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import anyio
import pytest

from postfacta_core.drain.signals import Interception
from tests.kit.apart import apart

pytestmark = pytest.mark.usefixtures("programs")

BACKENDS = ("asyncio", "trio")


class Service:
    """A server that counts the signals it got, and an application that counts those reported to it."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.told: list[int] = []
        self.handler: Callable[[int, FrameType | None], None] = lambda signum, frame: (
            self.got.append(signum)
        )
        signal.signal(signal.SIGTERM, self.handler)

    def tell(self, signum: int) -> None:
        self.told.append(signum)
        raise RuntimeError("what the application raises is dropped")

    async def until_told(self, times: int) -> None:
        with anyio.fail_after(20):
            while len(self.told) < times:
                await anyio.sleep(0.01)

    async def until_got(self) -> None:
        with anyio.fail_after(20):
            while not self.got:
                await anyio.sleep(0.01)


def send() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def in_threads(function: Callable[[], None], number: int) -> None:
    with ThreadPoolExecutor(number) as threads:
        for done in [threads.submit(function) for _ in range(number)]:
            done.result()


def run(backend: str, main: Callable[[Service], Awaitable[None]]) -> None:
    """Run it with a server whose handler is in place."""
    anyio.run(main, Service(), backend=backend)


def keeps_back(backend: str) -> None:
    async def main(service: Service) -> None:
        interception = Interception(service.tell)
        assert interception.mechanism == "wrap"
        for _ in range(3):
            send()
        assert (len(service.told), service.got) == (3, [])
        in_threads(interception.release, 8)
        await service.until_got()
        interception.release()
        send()
        assert (len(service.told), service.got) == (4, [signal.SIGTERM])
        interception.close()
        interception.close()
        send()
        assert (len(service.told), service.got) == (4, [signal.SIGTERM] * 2)

    run(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_signals_are_reported_and_held_back_until_one_is_released(backend: str) -> None:
    assert apart(keeps_back, backend) == 0


def releases_in_the_handler() -> None:
    async def main(service: Service) -> None:
        def tell(signum: int) -> None:
            interception.release()

        interception = Interception(tell)
        send()
        await service.until_got()
        assert service.got == [signal.SIGTERM]
        interception.close()

    run("asyncio", main)


def test_it_may_be_released_by_the_callback() -> None:
    assert apart(releases_in_the_handler) == 0


def releases_unasked() -> None:
    async def main(service: Service) -> None:
        interception = Interception(service.tell)
        interception.release()
        await service.until_got()
        assert (service.got, service.told) == ([signal.SIGTERM], [])
        interception.close()

    run("asyncio", main)


def test_a_worker_may_end_itself_though_no_signal_came() -> None:
    assert apart(releases_unasked) == 0


def survives_its_server() -> None:
    kept: list[Interception] = []

    async def main(service: Service) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        kept.append(Interception(service.tell))

    run("trio", main)
    kept[0].release()
    in_threads(kept[0].close, 1)


def test_releasing_and_closing_too_late_or_in_the_wrong_thread_raises_nothing() -> None:
    assert apart(survives_its_server) == 0


async def test_outside_the_main_thread_there_is_no_mechanism() -> None:
    def run_there() -> Interception:
        return Interception(lambda signum: None)

    interception = await anyio.to_thread.run_sync(run_there)
    assert interception.mechanism == "none"
    interception.release()
    interception.close()
