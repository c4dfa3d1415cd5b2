"""A signal is reported immediately, held back until it is released or closed, and passed on at most once."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import anyio
import pytest

from postfacta_core import launch
from postfacta_core.drain import signals
from postfacta_core.drain.signals import Interception
from tests.kit.apart import apart

pytestmark = pytest.mark.usefixtures("programs")

BACKENDS = ("asyncio", "trio")
VARIABLE = "POSTFACTA_DRAIN_FILE"


class Service:
    """A server that counts the signals it got, and an application that counts those reported to it."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.told: list[int] = []
        self.handler: Callable[[int, FrameType | None], None] = lambda signum, frame: self.got.append(signum)
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


def run(backend: str, main: Callable[[Service, Path], Awaitable[None]], *, launched: bool = False) -> None:
    """Run it with a server whose handler is in place, and the path of a file that is not there."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "drain"
        if launched:
            os.environ[VARIABLE] = str(path)
        anyio.run(main, Service(), path, backend=backend)


def keeps_back(backend: str) -> None:
    async def main(service: Service, path: Path) -> None:
        interception = Interception(service.tell)
        assert (interception.mechanism, interception.is_in_place()) == ("wrap", True)
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
        assert not interception.is_in_place()
        send()
        assert (len(service.told), service.got) == (4, [signal.SIGTERM] * 2)

    run(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_signals_are_reported_and_held_back_until_one_is_released(backend: str) -> None:
    assert apart(keeps_back, backend) == 0


def releases_in_the_handler() -> None:
    async def main(service: Service, path: Path) -> None:
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
    async def main(service: Service, path: Path) -> None:
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

    async def main(service: Service, path: Path) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        kept.append(Interception(service.tell))

    run("trio", main)
    kept[0].release()
    in_threads(kept[0].close, 1)
    assert not kept[0].is_in_place()


def test_releasing_and_closing_too_late_or_in_the_wrong_thread_raises_nothing() -> None:
    assert apart(survives_its_server) == 0


def tells_of_the_file(backend: str) -> None:
    async def main(service: Service, path: Path) -> None:
        interception = Interception(service.tell)
        assert interception.mechanism == "wrap"
        await anyio.Path(path).touch()
        await service.until_told(1)
        interception.release()
        interception.release()
        await anyio.sleep(0.2)
        assert service.got == [], "the delay is the launcher's"
        send()
        await service.until_got()
        send()
        assert (len(service.told), service.got) == (3, [signal.SIGTERM])
        interception.close()

    run(backend, main, launched=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_under_the_launcher_its_file_drains_and_signals_pass(backend: str) -> None:
    assert apart(tells_of_the_file, backend) == 0


def passes_at_once() -> None:
    async def main(service: Service, path: Path) -> None:
        interception = Interception(service.tell)
        await anyio.Path(path).touch()
        send()
        await service.until_got()
        await anyio.sleep(0.2)
        assert len(service.told) == 1, "the file says what the signal has said"
        interception.close()

    run("asyncio", main, launched=True)


def test_a_launcher_without_delay_is_noticed_once() -> None:
    assert apart(passes_at_once) == 0


def cannot_look() -> None:
    async def main(service: Service, path: Path) -> None:
        os.environ[VARIABLE] = str(
            path.parent / ("x" * 300)
        )  # no name may be so long: looking for it is an error
        interception = Interception(service.tell)
        send()
        assert (len(service.told), service.got) == (1, [])
        interception.close()

    run("asyncio", main)


def test_a_file_that_cannot_be_looked_for_is_not_there() -> None:
    assert apart(cannot_look) == 0


def keeps_back_past_the_launcher() -> None:
    async def main(service: Service, path: Path) -> None:
        interception = Interception(service.tell)
        send()
        assert (len(service.told), service.got) == (1, [])
        interception.release()
        await service.until_got()
        interception.close()

    run("asyncio", main, launched=True)


def test_a_signal_past_the_launcher_is_kept_back() -> None:
    assert apart(keeps_back_past_the_launcher) == 0


async def test_outside_the_main_thread_there_is_no_mechanism() -> None:
    def run_there() -> Interception:
        return Interception(lambda signum: None)

    interception = await anyio.to_thread.run_sync(run_there)
    assert (interception.mechanism, interception.is_in_place()) == ("none", False)
    interception.release()
    interception.close()


async def test_outside_the_main_thread_the_launcher_is_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "drain"))
    told: list[int] = []
    interception = await anyio.to_thread.run_sync(Interception, told.append)
    assert (interception.mechanism, interception.is_in_place()) == ("external", True)
    (tmp_path / "drain").touch()
    with anyio.fail_after(20):
        while not told:
            await anyio.sleep(0.01)
    interception.release()
    interception.close()
    assert told == [signal.SIGTERM]
    assert not interception.is_in_place()


def test_the_launcher_and_those_it_tells_agree_on_the_variable() -> None:
    assert vars(launch)["_VARIABLE"] == vars(signals)["_VARIABLE"] == VARIABLE
