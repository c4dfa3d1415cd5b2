"""A part of a team's own: what `harden` asks before a request reaches the application."""

from __future__ import annotations

from collections.abc import Awaitable

from ..telemetry.exchange import Exchange, Recorder
from ._problem import Problem


class Part(Recorder):
    """A rule of a team's own for requests and WebSockets, in `HardenOptions.parts`.

    Inherit from it, and write `decide`; what else a request goes through it can follow as a
    `Recorder`. It is asked after probes, sizes and rates, and before the deadline and the limiter:
    what it refuses takes no slot, and what floods the service does not reach it.

    Attributes:
        name: Of the list of parts that `repr` of the hardened application prints.
    """

    name: str = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = cls.name or cls.__name__

    def decide(self, exchange: Exchange, /) -> Problem | Awaitable[Problem | None] | None:
        """Return what to answer in place of the application, or None to go on.

        It is called once for each request and each WebSocket, on the event loop: what waits returns
        an awaitable. A refused WebSocket is closed before its handshake. What it raises is answered
        and logged as a crash of the application.

        Args:
            exchange: Its `method`, `path`, `headers` and `scope` are the request's. What is put
                into its `fields`, pairs of bytes in lower case, becomes headers of the response.
        """
        return None
