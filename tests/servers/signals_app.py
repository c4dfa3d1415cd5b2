"""A bare ASGI application that keeps SIGTERM back until a file says go, and writes down what happens to it.

`SIGNALS_FOLDER` holds what it writes (`notes`) and waits for (`go`). With `SIGNALS_SLOW` its start
takes a while.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import anyio

from postfacta_core.drain.signals import Interception

FOLDER = Path(os.environ["SIGNALS_FOLDER"])
NOTES = os.open(FOLDER / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
IDLE = threading.Event()  # never set
# A measurement of coverage ends a process that hears SIGTERM: servers are to be found as they are
# without.
if getattr(signal.getsignal(signal.SIGTERM), "__module__", "").startswith("coverage"):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

Message = MutableMapping[str, Any]


def note(words: object) -> None:
    os.write(NOTES, f"{os.getpid()} {words}\n".encode())


class Drain:
    """Releases the signal once the file is there."""

    def __init__(self) -> None:
        self.interception: Interception | None = None
        self.thread: threading.Thread | None = None

    def on_signal(self, signum: int) -> None:
        note(f"heard {signum}")
        if self.thread is None:
            self.thread = threading.Thread(target=self.wait, daemon=True)
            self.thread.start()
        raise RuntimeError("what it raises is dropped")

    def wait(self) -> None:
        for _ in range(1200):
            if (FOLDER / "go").exists() and self.interception:
                note("releasing")
                self.interception.release()
                self.interception.release()
                return
            IDLE.wait(0.05)


async def lifespan(
    receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    await receive()
    drain = Drain()
    drain.interception = Interception(drain.on_signal)
    note("starting")
    if "SIGNALS_SLOW" in os.environ:
        await anyio.sleep(1.5)
    note(f"started {drain.interception.mechanism}")
    await send({"type": "lifespan.startup.complete"})
    await receive()
    drain.interception.close()
    note("shutdown")
    await send({"type": "lifespan.shutdown.complete"})


async def app(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})
