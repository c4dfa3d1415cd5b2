"""From the signal to closed: the notifications, their order, and what if something hangs.

Signals are not caught here: a stand-in takes their place, since a real one would end the test run.
Real signals in real processes are at the end, and in tests/servers.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from postfacta_core.clock import MONOTONIC
from postfacta_core.context import RequestContext
from postfacta_core.deadlines.requests import Running, RunningRequests
from postfacta_core.drain import lifecycle as module
from postfacta_core.drain._course import DrainLimits, Phase
from postfacta_core.drain.lifecycle import Lifecycle
from postfacta_core.errors import StoppedError
from postfacta_core.events import Drained, Event, PhaseChanged, PolicyCreated, SignalsIntercepted
from postfacta_core.testing import RecordingObserver
from tests.kit.waiting import until, wait_until


class Server:
    """Stands for the server's handling of signals; the last one made is `Server.present`."""

    present: Server

    def __init__(self, heard: Callable[[int], None]) -> None:
        self.mechanism = "wrap"
        self.is_reloaded = False
        self.released_at: float | None = None
        self.closed = False
        self._heard = heard
        Server.present = self

    def signal(self, signum: int = signal.SIGTERM) -> None:
        """Receive one, in a thread."""
        thread = threading.Thread(target=self._heard, args=(signum,))
        thread.start()
        thread.join()

    def release(self) -> None:
        self.released_at = MONOTONIC()

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Interception", Server)


@pytest.fixture
def no_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the signal follow the delay at once: else the wait for streams hides how long that is."""
    monkeypatch.setattr(module, "_FAREWELL", 0.0)


class Life:
    """One service, with the calls that its server makes."""

    def __init__(
        self,
        *,
        delay: float = 0.0,
        timeout: float = 10.0,
        close: float = 5.0,
    ) -> None:
        self.observer = RecordingObserver()
        self.running = RunningRequests(observer=self.observer)
        self.drains: list[float] = []
        self.lifecycle = Lifecycle(
            DrainLimits(drain_delay=delay, drain_timeout=timeout, close_timeout=close),
            running=self.running,
            on_drain=lambda: self.drains.append(MONOTONIC()),
            observer=self.observer,
        )

    @asynccontextmanager
    async def lived(self, *, ready: bool = True) -> AsyncGenerator[Server]:
        with anyio.fail_after(20):
            async with self.lifecycle, self.running:
                if ready:
                    self.lifecycle.started()
                yield Server.present

    @property
    def phases(self) -> list[str]:
        return [event.new for event in self.observer.of(PhaseChanged)]

    @property
    def drained(self) -> list[tuple[int, int]]:
        return [(event.cancelled, event.left) for event in self.observer.of(Drained)]


class Request(Running):
    """One that notes when it was answered for."""

    def __init__(self, *, endless: bool = False) -> None:
        super().__init__(RequestContext("request-id", MONOTONIC()))
        self.is_endless = endless
        self.answered_at: float | None = None

    async def answer(self) -> None:
        assert isinstance(self.reason, StoppedError)
        self.answered_at = MONOTONIC()


@pytest.mark.usefixtures("no_farewell")
async def test_phases_are_in_order_and_the_signal_follows_the_delay() -> None:
    life = Life(delay=0.3)
    async with life.lived() as server:
        assert (life.lifecycle.phase, life.lifecycle.mechanism) == (Phase.READY, "wrap")
        began = MONOTONIC()
        server.signal()
        assert life.lifecycle.is_draining
        assert life.drains
        await until(lambda: server.released_at is not None)
        assert server.released_at is not None
        assert server.released_at >= began + 0.3
        before = life.lifecycle.phase
        await life.lifecycle.finish_requests()
        assert (before, life.lifecycle.phase) == (Phase.DRAINING, Phase.STOPPING)
    assert server.closed
    assert life.phases == ["ready", "draining", "stopping", "stopped"]
    assert life.drained == [(0, 0)]
    kinds: list[type[Event]] = [type(event) for event in life.observer.events]
    assert kinds == [
        PolicyCreated,
        SignalsIntercepted,
        PhaseChanged,
        PhaseChanged,
        PhaseChanged,
        Drained,
        PhaseChanged,
    ]
    assert life.lifecycle.limits.total == 15.3


@pytest.mark.usefixtures("no_farewell")
async def test_a_second_signal_ends_the_delay() -> None:
    life = Life(delay=30)
    async with life.lived() as server:
        server.signal()
        await anyio.sleep(0.1)
        assert server.released_at is None
        server.signal()
        await until(lambda: server.released_at is not None)
    assert len(life.drains) == 1
    assert life.phases.count("draining") == 1


@pytest.mark.usefixtures("no_farewell")
@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)], ids=str
)
async def test_one_stop_that_comes_as_two_signals_keeps_its_delay(first: int, second: int) -> None:
    life = Life(delay=30)
    async with life.lived() as server:
        server.signal(first)
        server.signal(second)
        assert life.lifecycle.is_draining
        await anyio.sleep(0.3)  # A release would have come by then.
        assert server.released_at is None
        server.signal(second)
        await until(lambda: server.released_at is not None)


@pytest.fixture
def at_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_ctrl_c(signum: int) -> bool:
        return signum == signal.SIGINT

    monkeypatch.setattr(module, "is_ctrl_c", is_ctrl_c)


@pytest.mark.usefixtures("at_terminal")
@pytest.mark.parametrize("before", [[], [signal.SIGTERM]], ids=["alone", "after SIGTERM"])
async def test_ctrl_c_at_a_terminal_has_no_delay(before: list[int]) -> None:
    life = Life(delay=30)
    async with life.lived() as server:
        for signum in (*before, signal.SIGINT):
            server.signal(signum)
        await until(lambda: server.released_at is not None)
    assert life.phases == ["ready", "draining", "stopping", "stopped"]


async def test_a_server_that_reloads_has_no_delay() -> None:
    life = Life(delay=30)
    async with life.lived() as server:
        server.is_reloaded = True
        server.signal()
        await until(lambda: server.released_at is not None)


@pytest.mark.usefixtures("at_terminal")
async def test_ctrl_c_during_startup_is_passed_on_once_that_is_over() -> None:
    life = Life(delay=30)
    async with life.lived(ready=False) as server:
        server.is_reloaded = True
        server.signal(signal.SIGINT)
        server.signal()  # From the parent that reloads, which had the Ctrl-C too.
        await anyio.sleep(0.3)  # A release would have come by then.
        assert server.released_at is None
        life.lifecycle.started()
        await until(lambda: server.released_at is not None)


async def test_a_signal_during_startup_is_passed_on_once_that_is_over_and_the_service_is_never_ready() -> (
    None
):
    life = Life(delay=30)
    async with life.lived(ready=False) as server:
        server.signal()
        await anyio.sleep(0.3)  # A release would have come by then.
        assert life.phases == ["draining"]
        assert server.released_at is None
        life.lifecycle.started()
        await until(lambda: server.released_at is not None)
        assert life.lifecycle.phase is Phase.DRAINING
        await life.lifecycle.finish_requests()
    assert life.phases == ["draining", "stopping", "stopped"]


async def test_a_second_signal_during_a_startup_that_hangs_is_passed_on_at_once() -> None:
    life = Life(delay=30)
    async with life.lived(ready=False) as server:
        server.signal()
        await until(lambda: life.phases == ["draining"])
        server.signal()
        await until(lambda: server.released_at is not None)


async def test_a_startup_that_hangs_does_not_outlast_the_drain() -> None:
    life = Life(delay=30, timeout=0.2, close=0.2)
    async with life.lived(ready=False) as server:
        server.signal()
        await until(lambda: server.released_at is not None)


async def test_a_shutdown_without_a_signal_is_a_drain_without_delay_and_sends_the_server_none() -> (
    None
):
    life = Life(delay=30)
    async with life.lived() as server:
        await life.lifecycle.finish_requests()
        assert life.drains
        # A signal that comes now is for a server that stops already.
        server.signal()
        await anyio.sleep(0.1)
    await anyio.sleep(0.1)
    assert server.released_at is None
    assert life.phases == ["ready", "stopping", "stopped"]
    assert len(life.drains) == 1


async def test_a_server_that_has_stopped_during_the_delay_is_sent_no_signal() -> None:
    life = Life(delay=0.2)
    async with life.lived() as server:
        server.signal()
        await life.lifecycle.finish_requests()
    await anyio.sleep(0.3)
    assert server.released_at is None


async def test_streams_end_after_the_delay_and_requests_at_the_timeout() -> None:
    life = Life(delay=0.1, timeout=0.4)
    stream, request = Request(endless=True), Request()
    async with life.lived() as server, anyio.create_task_group() as tasks:
        tasks.start_soon(life.running.run, stream, anyio.sleep_forever())
        tasks.start_soon(life.running.run, request, anyio.sleep_forever())
        began = MONOTONIC()
        server.signal()
        await until(lambda: server.released_at is not None)
        assert stream.answered_at is not None
        assert server.released_at is not None
        assert began + 0.1 <= stream.answered_at <= server.released_at
        before = (request.answered_at, life.running.is_closed)
        assert before == (None, False)
        await life.lifecycle.finish_requests()
        assert (request.answered_at or 0) >= began + 0.5
        assert life.running.is_closed
        assert len(life.running) == 0
    assert life.drained == [(2, 0)]


async def test_requests_that_end_in_time_are_waited_for_and_not_cancelled() -> None:
    life, request, gate = Life(), Request(), anyio.Event()
    async with life.lived(), anyio.create_task_group() as tasks:
        tasks.start_soon(life.running.run, request, gate.wait())
        await until(lambda: len(life.running) == 1)

        async def end() -> None:
            await anyio.sleep(0.1)
            gate.set()

        tasks.start_soon(end)
        await life.lifecycle.finish_requests()
        assert gate.is_set()
    assert life.drained == [(0, 0)]
    assert request.reason is None


async def test_cancelled_handlers_have_ended_before_anything_closes() -> None:
    life, log = Life(timeout=0.05), list[str]()

    async def handler() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.2)
            log.append("handler")

    async with life.lived(), anyio.create_task_group() as tasks:
        tasks.start_soon(life.running.run, Request(), handler())
        await until(lambda: len(life.running) == 1)
        await life.lifecycle.finish_requests()
        log.append("finished")
    assert log == ["handler", "finished"]


async def test_a_handler_that_does_not_heed_it_is_left_and_counted() -> None:
    life, gate = Life(timeout=0.02, close=2.0), anyio.Event()

    async def handler() -> None:
        with anyio.CancelScope(shield=True):
            await gate.wait()

    async with life.lived(), anyio.create_task_group() as tasks:
        tasks.start_soon(life.running.run, Request(), handler())
        await until(lambda: len(life.running) == 1)
        try:
            await life.lifecycle.finish_requests()
            # Half of the time to close is still there for the resources.
            assert life.lifecycle.share(1) > 0.02
        finally:
            gate.set()  # Else a failed test would wait for ever.
    assert life.drained == [(1, 1)]


async def test_resources_share_the_time_to_close() -> None:
    life = Life(close=4)
    async with life.lived():
        await life.lifecycle.finish_requests()
        assert life.lifecycle.share(4) == pytest.approx(1, abs=0.2)
        assert life.lifecycle.share(1) == pytest.approx(4, abs=0.5)
        assert life.lifecycle.share(0) == pytest.approx(4, abs=0.5)


async def test_a_service_that_fails_long_after_its_start_has_all_the_time_to_close() -> None:
    life = Life(close=0.2)
    with pytest.raises(LookupError, match="of the service"):
        async with life.lived():
            await anyio.sleep(0.3)
            assert life.lifecycle.share(1) == pytest.approx(0.2, abs=0.1)
            raise LookupError("of the service")
    assert life.lifecycle.phase is Phase.STOPPED
    assert Server.present.closed


async def test_a_blocked_event_loop_does_not_keep_the_server_from_its_signal() -> None:
    life = Life(delay=0.1)
    async with life.lived() as server:
        server.signal()
        # It blocks this loop, which is the fault to show.
        wait_until(lambda: server.released_at is not None)


async def test_it_reports_that_no_signal_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(heard: Callable[[int], None]) -> Server:
        server = Server(heard)
        server.mechanism = "none"
        return server

    monkeypatch.setattr(module, "Interception", none)
    life = Life()
    assert life.lifecycle.mechanism == ""
    async with life.lived() as server:
        await anyio.sleep(0.1)
        assert Server.present is server
    assert life.observer.of(SignalsIntercepted) == [SignalsIntercepted("none", in_place=False)]


async def test_it_is_entered_as_itself_and_its_thread_ends_with_it() -> None:
    # That of another test may go on for as long as its drain might have taken.
    life, before = Life(), set(threading.enumerate())
    async with life.lifecycle as entered, life.running:
        assert entered is life.lifecycle
        (thread,) = set(threading.enumerate()) - before
        assert thread.name == "postfacta-drain"
    with anyio.fail_after(10):
        await until(lambda: not thread.is_alive())


async def test_a_drain_finds_what_came_before_it() -> None:
    life = Life(delay=30)
    async with life.lived() as server:
        before = MONOTONIC()
        assert not life.lifecycle.drain_began_after(before)
        server.signal()
        assert life.lifecycle.drain_began_after(before)
        assert not life.lifecycle.drain_began_after(MONOTONIC())


async def test_requests_are_cancelled_in_time_though_the_server_waits_for_them() -> None:
    life, request = Life(timeout=0.1), Request()
    async with life.lived() as server, anyio.create_task_group() as tasks:
        tasks.start_soon(life.running.run, request, anyio.sleep_forever())
        server.signal()
        # A server that finishes its requests before it shuts the lifespan down.
        await until(lambda: request.answered_at is not None)
        assert life.running.is_closed
        await life.lifecycle.finish_requests()
    assert life.drained == [(1, 0)]
    (drained,) = life.observer.of(Drained)
    assert 0.1 <= drained.seconds < 10


def test_one_that_was_never_entered_cannot_be_left() -> None:
    life = Life()

    async def leave() -> None:
        with pytest.raises(AssertionError, match="never entered"):
            await life.lifecycle.__aexit__(None, None, None)

    anyio.run(leave)


SCRIPT = """
import anyio, os, signal, threading
from postfacta_core.deadlines.requests import RunningRequests
from postfacta_core.drain.lifecycle import Lifecycle
from postfacta_core.drain._course import DrainLimits

def heard(number, frame):
    print("server heard", flush=True)

signal.signal(signal.SIGTERM, heard)

async def main():
    limits = DrainLimits(drain_delay=0.1, drain_timeout=0.1, close_timeout=0.2)
    async with Lifecycle(limits, running=RunningRequests()) as lifecycle:
        lifecycle.started()
        os.kill(os.getpid(), signal.SIGTERM)
        {hang}
    print("closed", flush=True)

anyio.run(main, backend="{backend}")
"""


def run_script(backend: str, *, hang: str) -> subprocess.CompletedProcess[str]:
    source = SCRIPT.format(backend=backend, hang=hang)
    return subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": "src"},
    )


@pytest.mark.usefixtures("programs")
def test_a_process_that_hangs_beyond_all_limits_ends_itself_and_shows_its_stacks(
    anyio_backend_name: str,
) -> None:
    began = time.monotonic()
    done = run_script(anyio_backend_name, hang="threading.Event().wait()")
    assert time.monotonic() - began >= 2.4
    assert (done.returncode, done.stdout) == (1, "server heard\n")
    assert "the drain took longer than 0.4 s; all stacks:" in done.stderr
    assert re.search(r'File "<string>", line \d+ in main', done.stderr)


@pytest.mark.usefixtures("programs")
def test_a_thread_that_goes_on_does_not_keep_the_process_from_its_end(
    anyio_backend_name: str,
) -> None:
    done = run_script(
        anyio_backend_name, hang="threading.Thread(target=threading.Event().wait).start()"
    )
    assert (done.returncode, done.stdout) == (1, "closed\n")
    assert "all stacks:" in done.stderr


@pytest.mark.usefixtures("programs")
def test_a_process_that_closes_late_but_in_time_is_left_alone(anyio_backend_name: str) -> None:
    done = run_script(anyio_backend_name, hang="await anyio.sleep(1.5)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "server heard\nclosed\n", "")
