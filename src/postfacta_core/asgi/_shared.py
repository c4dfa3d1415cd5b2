"""What the exchanges of one kernel have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from ..clock import Clock
from ..deadlines.requests import RunningRequests
from ..drain.lifecycle import Lifecycle
from ..events import ListenerFailed, Observer
from ..telemetry.exchange import Exchange
from ._problem import Render

Headers = Sequence[tuple[bytes, bytes]]
Record = Callable[[Any], None]
"""A method of a recorder."""

GRANTS: Final = frozenset(
    {b"access-control-allow-origin", b"access-control-allow-credentials", b"access-control-expose-headers"}
)


class Shared:
    """What all exchanges of one kernel have in common: of each part, what is asked of it in mid-exchange.

    Attributes:
        identifies: Whether a response has its request's id.
        added: Headers of each response that does not set them itself, with names in lower case.
        owned: The names of all headers that the application may not set beside these.
        process: Holds whether the service drains, which responses say then.
        is_bounded: Whether clients have limits of size and pace.
        room: The size up to which a response is sent without a timer.
        answered: Called at the last byte of each response.
        opened: Called as a WebSocket is accepted.
    """

    clock: Clock
    render: Render | None
    identifies: bool
    added: Headers
    owned: frozenset[bytes]
    has_cors: bool
    process: Lifecycle | None
    is_bounded: bool
    room: float
    requests: RunningRequests | None
    answered: Sequence[Record]
    opened: Sequence[Record]
    observe: Observer

    def tell(self, records: Iterable[Record], exchange: Exchange) -> None:
        """Call recorders; what one raises reaches neither the request nor the others."""
        for record in records:
            try:
                record(exchange)
            except Exception as error:  # noqa: BLE001 - foreign code
                self.blame(record, error)

    def blame(self, record: Record, error: Exception) -> None:
        self.observe(ListenerFailed(getattr(record, "__qualname__", "recorder"), repr(error)))
