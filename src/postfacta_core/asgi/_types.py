"""The types of ASGI, defined once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

# The values are whatever ASGI says they are; no narrower type is true.
Scope = MutableMapping[str, Any]
"""ASGI's description of a connection: its type, path, headers."""

Message = MutableMapping[str, Any]
"""One event of ASGI, with its `type`."""

Receive = Callable[[], Awaitable[Message]]
"""Wait for the next message from the client or the server."""

Send = Callable[[Message], Awaitable[None]]
"""Send a message to the client or the server."""

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI application, version 3: called once for each connection."""
