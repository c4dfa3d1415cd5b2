"""Catch SIGTERM before the server does: one mechanism for each kind of server.

| mechanism | who had the signal | servers |
|---|---|---|
| `wrap` | a `signal.signal` handler | uvicorn, its workers; gunicorn with uvicorn-worker |
| `loop` | asyncio's `add_signal_handler` | granian and hypercorn (no workers) on asyncio |
| `uvloop` | the same, in uvloop's own table | granian and gunicorn's `asgi` worker on uvloop |
| `default` | none | hypercorn on trio (no workers) |
| `event` | the parent, which sets an event | hypercorn's workers |
| `none` | unknown: not in the main thread | test clients, servers in a thread |

A server installs its handlers before the lifespan starts. There is one class for each way of it,
which keeps them and puts its own in front. `pass_on` passes one signal to the server, from any
thread or signal handler; `restore` puts the server's handlers back where ours are still installed,
and may be called twice.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import anyio
from anyio.lowlevel import current_token

from ._private import (
    callback_of,
    captured_by,
    handlers_of,
    has_silent_connections,
    is_own_handler,
    is_run_by_uvicorn,
    listeners_of,
    reloads,
    shutdown_event,
    uvicorn_of,
)

_ACCEPTED = 0.1  # For what the kernel handed over last to arrive at the protocol.
_FIRST_WORDS = 1.0  # A connection opened in advance may stay silent for ever.
_TICK = 0.02  # Between two looks at what is still served.
_TERMINAL = "/dev/tty"  # The terminal that controls this process, wherever its input and output go.

OnSignal = Callable[[int], None]


class _PlainHandlers:
    """In front of `signal.signal` handlers or the default action.

    uvicorn raises a signal that its handler got again, once it has ended. A program that awaits
    `Server.serve` ends by that. A process of uvicorn's own ends anyway, with code 0.
    """

    def __init__(
        self, on_signal: OnSignal, signums: list[int], name: str = "wrap", *, loop: Any = None
    ) -> None:
        self.name = name
        self._loop = loop
        self._on_signal = on_signal
        self._due = 0  # the signal that is passed on when it comes next
        self._came = 0  # the last signal
        self._ends_anyway = is_run_by_uvicorn()
        self._is_restored = False
        self._thread = threading.get_ident()  # the main thread
        self._theirs: dict[int, Any] = {signum: signal.getsignal(signum) for signum in signums}
        for signum in signums:
            signal.signal(signum, self._handle)

    def pass_on(self) -> None:
        server = uvicorn_of(self._theirs[signal.SIGTERM])
        if server is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(_let_go, server, self._loop, self._stop)
            return
        self._due = signal.SIGTERM
        # To the main thread, which runs handlers: it wakes from a wait, which a signal to the
        # process may not do.
        signal.pthread_kill(self._thread, signal.SIGTERM)

    def _stop(self, server: Any) -> None:
        if not (self._came or self._ends_anyway):
            server.should_exit = True
            return
        signum = self._came or signal.SIGTERM
        self._theirs[signum](signum, None)
        if self._ends_anyway:
            captured_by(server).clear()

    def restore(self) -> None:
        self._is_restored = True
        for signum, theirs in self._theirs.items():
            if signal.getsignal(signum) == self._handle:
                signal.signal(signum, theirs)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        # Once restored we are called only by a handler that was installed over ours: then we are
        # not here.
        if signum != self._due and not self._is_restored:
            self._came = signum
            self._on_signal(signum)
            return
        self._due = 0
        theirs = self._theirs[signum]
        if callable(theirs):
            theirs(signum, frame)
        elif theirs == signal.SIG_DFL:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)


class _TrioHandlers(_PlainHandlers):
    """In front of trio: SIGINT is passed on from a context that trio protects, to the main task."""

    def __init__(self, on_signal: OnSignal, token: Any) -> None:
        self._token = token
        # A program that was started with SIGINT ignored (in the background of a shell) has none of
        # trio's.
        self._has_interrupt = callable(signal.getsignal(signal.SIGINT))
        signums: list[int] = (
            [signal.SIGTERM, signal.SIGINT] if self._has_interrupt else [signal.SIGTERM]
        )
        super().__init__(on_signal, signums, "default")

    def pass_on(self) -> None:
        if self._has_interrupt:
            self._token.run_sync_soon(self._interrupt)
        else:
            super().pass_on()

    def _interrupt(self) -> None:
        self._due = signal.SIGINT
        signal.raise_signal(signal.SIGINT)


class _LoopHandlers:
    """In front of the handlers of an event loop, which is woken by a file descriptor."""

    def __init__(self, on_signal: OnSignal, loop: Any, *, table: dict[int, Any], name: str) -> None:
        self.name = name
        self._loop = loop
        self._table = table
        self._theirs = {
            signum: table[signum] for signum in (signal.SIGTERM, signal.SIGINT) if signum in table
        }
        self._callback = callback_of(self._theirs[signal.SIGTERM])
        for signum in self._theirs:
            loop.add_signal_handler(signum, on_signal, signum)
        self._ours = {signum: table[signum] for signum in self._theirs}

    def pass_on(self) -> None:
        self._loop.call_soon_threadsafe(*self._callback)

    def restore(self) -> None:
        for signum, ours in self._ours.items():
            if self._table.get(signum) is ours:
                self._table[signum] = self._theirs[signum]


class _WorkerEvent:
    """In front of the event that stops hypercorn's workers; a worker polls it.

    Once the first worker has ended, the parent sends SIGTERM to the others: it has no effect once
    the event was seen.
    """

    name = "event"

    def __init__(self, on_signal: OnSignal, event: Any) -> None:
        self._on_signal = on_signal
        self._event = event
        self._was_set: Callable[[], bool] = event.is_set
        self._was_seen = self._was_signalled = False  # the event, a signal
        self._is_open = False
        event.is_set = self._poll
        self._term = _PlainHandlers(self._receive, [signal.SIGTERM])

    def pass_on(self) -> None:
        self._is_open = True

    def restore(self) -> None:
        if self._event.is_set == self._poll:
            self._event.is_set = self._was_set
        if not self._is_open:  # The process continues.
            self._term.restore()

    def _poll(self) -> bool:
        if not self._was_seen and self._was_set():
            self._was_seen = True
            if not self._was_signalled:
                self._on_signal(signal.SIGTERM)
        return self._is_open

    def _receive(self, signum: int) -> None:
        # Whether the event is set must not be asked here: that takes a lock, which the poll may be
        # holding.
        self._was_signalled = True
        if not self._was_seen:
            self._on_signal(signum)


Mechanism = _PlainHandlers | _LoopHandlers | _WorkerEvent


class Interception:
    """Stands between SIGTERM and the server, until `release` or `close`.

    SIGINT too, where the server handles that.

    Make it on the event loop while the lifespan starts. It raises nothing; where no mechanism
    applies, the server gets its signals as if we were not here. Signals are kept back, as often as
    they come: granian locks up if three reach it.

    Args:
        on_signal: Called with each signal, repeats included, and before this is made if one comes
            early. It runs in a signal handler, on the loop or in a thread, possibly in the midst of
            itself: it must be quick and take no lock. What it raises is dropped.

    Attributes:
        mechanism: How signals are received: see the module's table.
        is_reloaded: Whether this is uvicorn with `--reload`, which sends its process SIGTERM at
            each change of a file.
    """

    def __init__(self, on_signal: Callable[[int], None]) -> None:
        self._on_signal = on_signal
        # Taken once and never given back: a test-and-set that is safe in signal handlers.
        self._passed = threading.Lock()
        self._server: Mechanism | None = None
        self.is_reloaded: bool = reloads(uvicorn_of(signal.getsignal(signal.SIGTERM)))
        # Foreign objects and private attributes: else there is no mechanism.
        with contextlib.suppress(Exception):
            self._server = choose(self._hear)
        self.mechanism: str = self._server.name if self._server else "none"

    def release(self) -> None:
        """Pass the signal to the server now, from any thread or signal handler.

        Only the first call has an effect.
        """
        if self._server is not None and self._passed.acquire(blocking=False):
            with contextlib.suppress(Exception):  # the loop may be closed already
                self._server.pass_on()

    def close(self) -> None:
        """Restore everything, on the loop when the lifespan has shut down.

        It may be called twice.
        """
        if self._server is not None:
            with contextlib.suppress(Exception):
                self._server.restore()

    def _hear(self, signum: int) -> None:
        with contextlib.suppress(Exception):
            self._on_signal(signum)


def choose(on_signal: OnSignal) -> Mechanism | None:  # noqa: PLR0911 - one for each kind of server
    """Find the server's handlers, and install ours in front of them.

    None where nothing can be done.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    event = shutdown_event()
    if event is not None:
        return _WorkerEvent(on_signal, event)
    try:
        loop: Any = current_token().native_token  # asyncio's loop, or trio's token
    except anyio.NoEventLoopError:
        loop = None
    term = signal.getsignal(signal.SIGTERM)
    name, table = handlers_of(loop)
    # uvicorn's handler is in front of one that the program gave to its loop.
    if table and signal.SIGTERM in table and uvicorn_of(term) is None:
        # A handle that looks unlike those we know: LookupError.
        with contextlib.suppress(LookupError):
            return _LoopHandlers(on_signal, loop, table=table, name=name)
    interrupt = signal.getsignal(signal.SIGINT)
    if term is signal.SIG_DFL:
        if hasattr(loop, "run_sync_soon"):
            return _TrioHandlers(on_signal, loop)
        return _PlainHandlers(on_signal, [signal.SIGTERM], "default")
    if not callable(term) or is_own_handler(loop, term):
        return None
    is_servers = callable(interrupt) and interrupt is not signal.default_int_handler
    return _PlainHandlers(
        on_signal, [signal.SIGTERM, *([signal.SIGINT] if is_servers else [])], loop=loop
    )


def _let_go(server: Any, loop: Any, stop: Callable[[Any], None]) -> None:
    """Stop listening, and stop uvicorn once every connection that it accepted has sent a request.

    It closes those that have not: where workers share its listener, each is a client that it took
    from a sibling.
    """
    listeners = listeners_of(server)
    for listener in listeners or ():
        listener.close()
    until = loop.time() + _FIRST_WORDS

    def exit_when_served() -> None:
        if has_silent_connections(server) and loop.time() < until:
            loop.call_later(_TICK, exit_when_served)
        else:
            stop(server)

    loop.call_later(0 if listeners is None else _ACCEPTED, exit_when_served)


def has_terminal() -> bool:
    """Return whether a terminal controls this process, and is still open."""
    return _foreground() is not None


def is_ctrl_c(signum: int) -> bool:
    """Return whether a signal may come from Ctrl-C: SIGINT in the foreground of a terminal."""
    return signum == signal.SIGINT and _foreground() == os.getpgrp()


def _foreground() -> int | None:
    """Return the process group that has the terminal; None if there is none."""
    with contextlib.suppress(OSError):
        terminal = os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            return os.tcgetpgrp(terminal)
        finally:
            os.close(terminal)
    return None
