"""Whatever a server installed for SIGTERM.

It gets nothing until the signal is passed on, and then exactly one.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import anyio
import pytest
import trio
import uvicorn
import uvloop
from uvicorn.server import Server

from postfacta_core.drain.signals import Interception, Mechanism, choose
from tests.kit.apart import apart
from tests.kit.waiting import until

pytestmark = pytest.mark.usefixtures("programs")

BACKENDS = ("asyncio", "trio")
LOOPS = {"loop": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def send(signum: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), signum)


def chosen(heard: Callable[[int], None], name: str) -> Mechanism:
    mechanism = choose(heard)
    assert mechanism is not None, "no mechanism"
    assert mechanism.name == name, mechanism.name
    return mechanism


def in_a_thread(function: Callable[[], None]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def run(backend: str, main: Callable[[], Any]) -> None:
    """Run it without any handler of SIGTERM, not even that of a coverage measurement."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    anyio.run(main, backend=backend)


# A server with handlers of `signal.signal`.


class Plain:
    """A server that installs plain handlers for both signals."""

    def __init__(self) -> None:
        self.got: list[tuple[int, bool]] = []
        self.handler: Callable[[int, FrameType | None], None] = self.handle
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self.handler)

    def handle(self, signum: int, frame: FrameType | None) -> None:
        self.got.append((signum, frame is not None))


def passes_on_one(backend: str) -> None:
    async def main() -> None:
        server, heard = Plain(), list[int]()
        mechanism = chosen(heard.append, "wrap")
        send()
        send(signal.SIGINT)
        send()
        assert (heard, server.got) == ([signal.SIGTERM, signal.SIGINT, signal.SIGTERM], [])
        in_a_thread(mechanism.pass_on)
        await until(lambda: server.got == [(signal.SIGTERM, True)])
        send()
        assert len(heard) == 4
        mechanism.restore()
        assert signal.getsignal(signal.SIGTERM) is server.handler
        assert signal.getsignal(signal.SIGINT) is server.handler
        assert server.got == [(signal.SIGTERM, True)]

    run(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_plain_handler_gets_one_signal_however_many_came(backend: str) -> None:
    assert apart(passes_on_one, backend) == 0


def sees_another() -> None:
    async def main() -> None:
        server, heard = Plain(), list[int]()
        mechanism = chosen(heard.append, "wrap")
        ours, later = signal.getsignal(signal.SIGTERM), list[int]()
        assert callable(ours)

        def another(signum: int, frame: FrameType | None) -> None:
            later.append(signum)
            ours(signum, frame)

        signal.signal(signal.SIGTERM, another)
        mechanism.restore()
        assert signal.getsignal(signal.SIGTERM) is another, "it took away what is not its own"
        assert signal.getsignal(signal.SIGINT) is server.handler
        send()
        assert (heard, later, server.got) == ([], [signal.SIGTERM], [(signal.SIGTERM, True)])

    run("asyncio", main)


def test_a_handler_that_came_later_stays_and_still_reaches_the_server() -> None:
    assert apart(sees_another) == 0


def leaves_interrupt() -> None:
    async def main() -> None:
        signal.signal(signal.SIGTERM, lambda signum, frame: None)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        mechanism = chosen(lambda signum: None, "wrap")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        mechanism.restore()

    run("asyncio", main)


def test_pythons_own_handler_of_ctrl_c_is_left_alone() -> None:
    assert apart(leaves_interrupt) == 0


class Drained(Server):
    """A server that drains in place of serving."""

    signums: Sequence[int] = ()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        with self.capture_signals():
            mechanism = chosen(lambda signum: None, "wrap")
            for signum in self.signums:
                send(signum)
            assert not self.should_exit
            in_a_thread(mechanism.pass_on)
            await until(lambda: self.should_exit)
            assert not self.force_exit
            mechanism.restore()
        # Signals that uvicorn had caught are raised again here.


def wrap_the_handler(calls: list[int]) -> None:
    """Do what sse-starlette does when it is imported."""
    original = Server.handle_exit

    def handle_exit(server: Server, sig: int, frame: FrameType | None) -> None:
        calls.append(sig)
        original(server, sig, frame)

    setattr(Server, "handle_exit", handle_exit)  # noqa: B010 - as a library does that is not typed


def runs_uvicorn(*names: str) -> None:
    calls = list[int]()
    wrap_the_handler(calls)
    server = Drained(uvicorn.Config("none:none"))
    server.signums = [signal.Signals[name] for name in names]
    server.run()
    assert calls == [*server.signums, signal.SIGTERM][:1]


@pytest.mark.parametrize("names", [("SIGTERM",), ("SIGINT",), ()], ids=str)
def test_uvicorns_own_process_does_not_die_of_the_signal(names: tuple[str, ...]) -> None:
    assert apart(runs_uvicorn, *names) == 0


def awaits_uvicorn(*names: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    server = Drained(uvicorn.Config("none:none"))
    server.signums = [signal.Signals[name] for name in names]
    run("asyncio", server.serve)


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (("SIGTERM",), -signal.SIGTERM),
        (("SIGINT",), -signal.SIGINT),
        (("SIGTERM", "SIGINT"), -signal.SIGINT),
        ((), 0),
    ],
    ids=str,
)
def test_a_program_that_awaits_uvicorn_gets_the_signal_afterwards(
    names: tuple[str, ...], code: int
) -> None:
    assert apart(awaits_uvicorn, *names) == code


def awaits_uvicorn_with_a_handler_of_its_own() -> None:
    async def main() -> None:
        got = list[int]()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, got.append, signal.SIGTERM)
        server = Drained(uvicorn.Config("none:none"))
        server.signums = [signal.SIGTERM]
        await server.serve()
        # As it came, and as it was raised again.
        await until(lambda: len(got) == 2)

    run("asyncio", main)


def test_a_handler_that_a_program_gave_to_its_loop_is_called() -> None:
    assert apart(awaits_uvicorn_with_a_handler_of_its_own) == 0


def sees_a_reload(flag: str) -> None:
    with Server(uvicorn.Config("none:none", reload=flag == "reload")).capture_signals():
        interception = Interception(lambda signum: None)
        assert interception.is_reloaded == (flag == "reload")
        interception.close()
    assert not Interception(lambda signum: None).is_reloaded


@pytest.mark.parametrize("flag", ["reload", "none"])
def test_uvicorn_that_reloads_is_recognized(flag: str) -> None:
    assert apart(sees_a_reload, flag) == 0


# Nobody handles it.


def dies_of_it() -> None:
    async def main() -> None:
        heard: list[int] = []
        mechanism = chosen(heard.append, "default")
        send()
        assert heard == [signal.SIGTERM]
        mechanism.pass_on()
        await anyio.sleep(20)

    run("asyncio", main)


def test_on_asyncio_the_default_action_follows_when_it_is_passed_on() -> None:
    assert apart(dies_of_it) == -signal.SIGTERM


async def busy(ended: list[str]) -> None:
    """Be a request, until the main task has ended or an interrupt hits this one."""
    try:
        while "main" not in ended:
            sum(range(100_000))  # long enough for a thread to get its turn in between
            await trio.lowlevel.checkpoint()
        ended.append("busy")
    except KeyboardInterrupt:
        ended.append("hit")


def interrupts_the_main_task() -> None:
    ended: list[str] = []
    heard: list[int] = []

    async def main() -> None:
        before = signal.getsignal(signal.SIGINT)
        async with trio.open_nursery() as nursery:
            mechanism = chosen(heard.append, "default")
            for _ in range(20):
                nursery.start_soon(busy, ended)
            send()
            send(signal.SIGINT)
            send()
            await trio.sleep(0.05)
            try:
                await trio.to_thread.run_sync(mechanism.pass_on)  # meanwhile the others are busy
                await trio.sleep(20)
            except KeyboardInterrupt:
                ended.append("main")
        mechanism.restore()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is before

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    trio.run(main)
    assert heard == [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]
    assert ended == ["main", *["busy"] * 20], ended


def test_on_trio_the_main_task_is_interrupted_and_no_other() -> None:
    assert apart(interrupts_the_main_task) == 0


def ignores_interrupt() -> None:
    async def main() -> None:
        mechanism = chosen(lambda signum: None, "default")
        mechanism.pass_on()
        await anyio.sleep(20)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run("trio", main)


def test_on_trio_with_ctrl_c_ignored_the_default_action_follows() -> None:
    assert apart(ignores_interrupt) == -signal.SIGTERM


# The event loop handles it.


def swaps(name: str) -> None:
    async def main() -> None:
        loop, got, heard = asyncio.get_running_loop(), list[tuple[object, ...]](), list[int]()

        def server(*arguments: object) -> None:
            got.append(arguments)

        loop.add_signal_handler(signal.SIGTERM, server, "term", None)
        loop.add_signal_handler(signal.SIGINT, server)
        mechanism = chosen(heard.append, name)
        for number, signum in enumerate((signal.SIGTERM, signal.SIGINT, signal.SIGTERM), 1):
            send(signum)
            await until(lambda: len(heard) == number)  # noqa: B023 - it is called here
        assert got == []
        in_a_thread(mechanism.pass_on)
        await until(lambda: got == [("term", None)])
        send()
        await until(lambda: len(heard) == 4)
        mechanism.restore()
        send(signal.SIGINT)
        await until(lambda: got == [("term", None), ()])
        assert len(heard) == 4

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with asyncio.Runner(loop_factory=LOOPS[name]) as runner:
        runner.run(main())


@pytest.mark.parametrize("name", LOOPS)
def test_a_callback_of_the_loop_runs_once_with_its_arguments(name: str) -> None:
    assert apart(swaps, name) == 0


def sees_another_on_the_loop(name: str, how: str) -> None:
    async def main() -> None:
        loop, got = asyncio.get_running_loop(), list[int]()
        loop.add_signal_handler(signal.SIGTERM, got.append, 1)
        mechanism = chosen(got.append, name)
        if how == "loop":
            loop.add_signal_handler(signal.SIGTERM, got.append, 2)
        else:
            signal.signal(signal.SIGTERM, lambda signum, frame: got.append(2))
        mechanism.restore()
        send()
        await until(lambda: got == [2])

    with asyncio.Runner(loop_factory=LOOPS[name]) as runner:
        runner.run(main())


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("how", ["loop", "plain"])
def test_a_later_handler_stays_on_a_loop_too(name: str, how: str) -> None:
    assert apart(sees_another_on_the_loop, name, how) == 0


# The parent sets an event.


def polls_an_event() -> None:
    event = multiprocessing.Event()
    multiprocessing.current_process()._kwargs = {"shutdown_event": event}  # type: ignore[attr-defined] # noqa: SLF001 - as in a worker

    async def main() -> None:
        heard: list[int] = []
        mechanism = chosen(heard.append, "event")
        assert not event.is_set()
        assert heard == []
        event.set()
        assert [event.is_set(), event.is_set()] == [False, False]
        assert heard == [signal.SIGTERM]
        send()
        assert heard == [signal.SIGTERM], "the parent's signal to the siblings is none"
        in_a_thread(mechanism.pass_on)
        assert event.is_set()
        mechanism.restore()
        assert event.is_set()
        send()  # The parent may still send it, until the process is gone.

    run("trio", main)


def test_a_worker_sees_its_event_when_it_is_passed_on_and_survives_its_parents_signal() -> None:
    assert apart(polls_an_event) == 0


def hears_the_signal_too() -> None:
    event = multiprocessing.Event()
    multiprocessing.current_process()._kwargs = {"shutdown_event": event}  # type: ignore[attr-defined] # noqa: SLF001 - as in a worker

    async def main() -> None:
        heard: list[int] = []
        mechanism = chosen(heard.append, "event")
        send()
        send()
        event.set()
        assert not event.is_set()
        assert heard == [signal.SIGTERM] * 2, "the event says the same once more"
        mechanism.restore()
        assert event.is_set()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    run("asyncio", main)


def test_a_worker_that_is_signalled_itself_gets_the_signal() -> None:
    assert apart(hears_the_signal_too) == 0


# There is nothing to do.


def runs_without_a_loop() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    heard: list[int] = []
    mechanism = chosen(heard.append, "default")
    send()
    mechanism.restore()
    assert heard == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_it_works_before_a_loop_runs() -> None:
    assert apart(runs_without_a_loop) == 0


def ignores_it() -> None:
    async def main() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert choose(lambda signum: None) is None
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN

    run("asyncio", main)


def test_an_ignored_signal_stays_ignored() -> None:
    assert apart(ignores_it) == 0


async def test_outside_the_main_thread_nothing_can_be_done() -> None:
    before = signal.getsignal(signal.SIGTERM)
    heard: list[int] = []
    assert await anyio.to_thread.run_sync(choose, heard.append) is None
    assert signal.getsignal(signal.SIGTERM) is before
