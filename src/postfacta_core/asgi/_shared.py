"""What the exchanges of one kernel have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from ..clock import Clock
from ..deadlines._transfer import TransferLimits
from ..deadlines.requests import RunningRequests
from ..drain.lifecycle import Lifecycle
from ..events import ListenerFailed, Observer
from ..telemetry.exchange import Exchange
from ._problem import Render
from ._types import Scope

__all__ = ["GRANTS", "Headers", "Record", "Shared"]

Headers = Sequence[tuple[bytes, bytes]]
Record = Callable[[Any], None]
"""A method of a recorder."""

GRANTS: Final = frozenset(
    {b"access-control-allow-origin", b"access-control-allow-credentials", b"access-control-expose-headers"}
)


class Shared:
    """What all exchanges of one kernel have in common: of each part, what is asked of it in mid-exchange.

    Attributes:
        clock: Monotonic seconds.
        render: Another shape of problem.
        identifies: Whether a response has its request's id.
        added: Headers of each response that does not set them itself, with names in lower case.
        owned: The names of all headers that the application may not set beside these.
        has_cors: Whether it is decided here what pages of other origins may read.
        process: Holds whether the service drains, which responses say then.
        limits: How large and slow a client may be; None for as it likes.
        room: The size up to which a response is sent without a timer.
        max_body: The largest body; -1 if it has to be asked for.
        requests: Holds the requests under way, each with its deadline.
        stream_timeout: The limit of a response in pieces, from the request's beginning.
        answered: Called at the last byte of each response.
        opened: Called as a WebSocket is accepted.
        observe: Receives each of these that raises.
    """

    clock: Clock
    render: Render | None
    identifies: bool
    added: Headers
    owned: frozenset[bytes]
    has_cors: bool
    process: Lifecycle | None
    limits: TransferLimits | Callable[[Scope], TransferLimits] | None
    is_bounded: bool
    room: float
    max_body: float
    requests: RunningRequests | None
    stream_timeout: float
    answered: Sequence[Record]
    opened: Sequence[Record]
    observe: Observer

    def limits_of(self, scope: Scope) -> TransferLimits:
        """Return the limits of a request."""
        limits = self.limits
        if limits is None:
            raise AssertionError("without limits nothing is asked for them")
        return limits if isinstance(limits, TransferLimits) else limits(scope)

    def tell(self, records: Iterable[Record], exchange: Exchange) -> None:
        """Call recorders; what one raises reaches neither the request nor the others."""
        for record in records:
            try:
                record(exchange)
            except Exception as error:  # noqa: BLE001 - foreign code
                self.blame(record, error)

    def blame(self, record: Record, error: Exception) -> None:
        """Report a recorder that raised."""
        self.observe(ListenerFailed(getattr(record, "__qualname__", "recorder"), repr(error)))
