"""Look at what servers and event loops keep to themselves.

The only module that knows their private attributes.

Nothing is changed here. What is not found is None, so that a newer server is treated as an unknown
one; `tests/core/drain/test_private.py` fails first.
"""

from __future__ import annotations

import gc
import inspect
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from typing import Any


def is_own_handler(loop: Any, handler: Any) -> bool:
    return loop is not None and getattr(handler, "__self__", None) is loop


def handlers_of(loop: Any) -> tuple[str, dict[int, Any] | None]:
    """Return the kind of a loop, and its table of signal handlers by number, or None."""
    table: dict[int, Any] | None = getattr(loop, "_signal_handlers", None)
    if table is None and is_own_handler(loop, signal.getsignal(signal.SIGTERM)):
        return "uvloop", _uvloop_table(loop)
    return "loop", table


def _uvloop_table(loop: Any) -> dict[int, Any] | None:
    tables: list[dict[Any, Any]] = [
        referent for referent in gc.get_referents(loop) if isinstance(referent, dict)
    ]
    for table in tables:
        # Other tables have file descriptors as keys, which are numbers too.
        if type(table.get(signal.SIGTERM)).__name__ == "Handle":
            return table
    return None


def callback_of(handle: Any) -> tuple[Callable[..., Any], *tuple[Any, ...]]:
    """Return callback and arguments of a loop's handle; LookupError if they are not found."""
    if hasattr(handle, "_callback"):
        # asyncio offers no other way to run it later.
        return (handle._callback, *handle._args)  # noqa: SLF001
    referents = gc.get_referents(handle)
    callbacks = [referent for referent in referents if callable(referent)]
    arguments: list[tuple[Any, ...]] = [
        referent for referent in referents if isinstance(referent, tuple)
    ]
    if len(callbacks) != 1:
        raise LookupError(handle)
    return (callbacks[0], *(arguments[0] if arguments else ()))


def uvicorn_of(handler: Any) -> Any:
    """Return the uvicorn whose handler this is, or None.

    Libraries such as sse-starlette wrap it.
    """
    server = getattr(handler, "__self__", None)
    is_server = any(kind.__module__ == "uvicorn.server" for kind in type(server).__mro__)
    return server if is_server else None


def captured_by(server: Any) -> list[int]:
    """Return the signals that a uvicorn raises again once it has ended."""
    captured: list[int] = getattr(server, "_captured_signals", [])
    return captured


def is_run_by_uvicorn() -> bool:
    """Return whether uvicorn, or gunicorn's worker, runs the event loop of this thread."""
    frame = inspect.currentframe()
    while frame is not None:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if frame.f_code.co_name == "run" and package in {"uvicorn", "uvicorn_worker"}:
            return True
        frame = frame.f_back
    return False


def reloads(server: Any) -> bool:
    return getattr(getattr(server, "config", None), "reload", False) is True


def listeners_of(server: Any) -> Sequence[Any] | None:
    """Return the listeners of a uvicorn; None before its startup is complete."""
    return getattr(server, "servers", None)


def has_silent_connections(server: Any) -> bool:
    """Return whether a connection of a uvicorn has not sent the first line of a request."""
    # A WebSocket's connection has no cycle, and a request's has one from its first line on.
    return any(
        getattr(connection, "cycle", connection) is None
        for connection in server.server_state.connections
    )


def shutdown_event() -> Any:
    """Return the event that hypercorn hands to each worker, or None."""
    arguments: dict[str, Any] = getattr(multiprocessing.current_process(), "_kwargs", {})
    event = arguments.get("shutdown_event")
    return event if hasattr(event, "is_set") else None
