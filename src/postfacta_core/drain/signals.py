"""Catch SIGTERM before the server does: one mechanism for each kind of server.

| mechanism | who had the signal | servers |
|---|---|---|
| `wrap` | a `signal.signal` handler | uvicorn, its workers; gunicorn with uvicorn-worker |
| `loop` | asyncio's `add_signal_handler` | granian and hypercorn (no workers) on asyncio |
| `uvloop` | the same, in uvloop's own table | granian and gunicorn's `asgi` worker on uvloop |
| `default` | none | hypercorn on trio (no workers) |
| `event` | the parent, which sets an event | hypercorn's workers |
| `external` | `postfacta_core.launch` alone | whatever runs its loop outside the main thread, under the launcher |
| `none` | unknown: not in the main thread | test clients, servers in a thread |

Under the launcher (`POSTFACTA_DRAIN_FILE` names its file) the mechanism is the server's own, and the file is watched
beside it. The drain delay is then the launcher's: the file begins the drain, and the signal that the launcher sends
at the end of its delay goes straight to the server. `release` has no effect in between, as a worker that left before
its parent had the signal would only be started again. A signal that comes without the file (sent to the server past
the launcher) is kept back as always.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from ._mechanisms import Mechanism, choose, is_reloaded

_VARIABLE = "POSTFACTA_DRAIN_FILE"
_POLL = 0.05


class Interception:
    """Stands between SIGTERM and the server, until `release` or `close`; SIGINT too, where the server handles that.

    Make it on the event loop while the lifespan starts: by then servers have installed their handlers. It raises
    nothing; where no mechanism applies, the server gets its signals as if we were not here. Signals are kept back, as
    often as they come: granian locks up if three reach it. Only `release` lets the server have one.

    A worker whose loop is blocked by Python code catches it immediately with `wrap` and `default`, and when the loop
    goes on with `loop`, `uvloop` and `event`. In a terminal, Ctrl-C reaches a worker as SIGINT and once more as its
    parent's SIGTERM: these two are one request to stop, and a second one of the same kind is a second request.

    Args:
        on_signal: Called with each signal, repeats included, and before this is made if one comes early. It runs
            in a signal handler, on the loop or in a thread, possibly in the midst of itself: it must be quick
            and take no lock. What it raises is dropped.
    """

    mechanism: str
    """How signals are received: see the module's table."""
    is_reloaded: bool
    """Whether the server starts this process anew at each change of a file."""

    def __init__(self, on_signal: Callable[[int], None]) -> None:
        self._on_signal = on_signal
        # Taken once and never given back: a test-and-set that is safe in signal handlers.
        self._passed = threading.Lock()
        self._began = threading.Lock()
        self._closed = threading.Event()
        path = os.environ.get(_VARIABLE)
        self._drain_file = Path(path) if path else None
        self._watch: threading.Thread | None = None
        self._server: Mechanism | None = None
        self.is_reloaded = is_reloaded()
        # Foreign objects and private attributes: else there is no mechanism.
        with contextlib.suppress(Exception):
            self._server = choose(self._hear)
        self.mechanism = self._server.name if self._server else "external" if path else "none"
        if path:
            self._watch = threading.Thread(target=self._watch_file, name="postfacta drain file", daemon=True)
            self._watch.start()

    def is_in_place(self) -> bool:
        """Return whether our handler is still the one installed."""
        if self._closed.is_set():
            return False
        return self._server.is_in_place() if self._server else self._watch is not None

    def release(self) -> None:
        """Pass the signal to the server now, as if it had just come; only the first call has an effect.

        It may be called from any thread, from a signal handler, and before any signal came. Under the launcher
        the signal itself does this.
        """
        if not self._is_launcher_draining():
            self._pass_on()

    def close(self) -> None:
        """Restore everything, on the loop when the lifespan has shut down. It may be called twice, and never raises."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._server is not None:
            with contextlib.suppress(Exception):
                self._server.restore()

    def _hear(self, signum: int) -> None:
        if self._is_launcher_draining():
            self._began.acquire(blocking=False)  # the file has been reported already
            self._tell(signum)
            self._pass_on()
        else:
            self._tell(signum)

    def _tell(self, signum: int) -> None:
        with contextlib.suppress(Exception):
            self._on_signal(signum)

    def _pass_on(self) -> None:
        if self._server is not None and self._passed.acquire(blocking=False):
            with contextlib.suppress(Exception):  # the loop may be closed already
                self._server.pass_on()

    def _is_launcher_draining(self) -> bool:
        try:
            return self._drain_file is not None and self._drain_file.exists()
        except OSError:  # it may not be looked at
            return False

    def _watch_file(self) -> None:
        while not self._closed.wait(_POLL):
            if self._is_launcher_draining():
                if self._began.acquire(blocking=False):
                    self._tell(signal.SIGTERM)
                return
