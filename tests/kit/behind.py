"""A uvicorn that serves from a thread of the test, for what an application does behind a real server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import uvicorn

__all__ = ["behind_uvicorn"]


@contextmanager
def behind_uvicorn(app: Any, **options: Any) -> Generator[str]:
    """Serve an application until the block ends; give the address, without a slash at its end.

    Args:
        app: An ASGI application; it has no lifespan unless the options say so.
        options: Of `uvicorn.Config`.
    """
    settings: dict[str, Any] = {
        "lifespan": "off",
        "ws": "none",
        "log_level": "critical",
        "loop": "asyncio",
    }
    server = uvicorn.Server(uvicorn.Config(app, **settings | options))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
