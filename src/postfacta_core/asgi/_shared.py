"""What the exchanges of one kernel have in common."""

from __future__ import annotations

import math
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
# A response up to this size finds room in the buffers of server and kernel, whether or not its client reads.
_ROOM: Final = 65_536


class Shared:
    """What all exchanges of one kernel have in common: of each part, what is asked of it in mid-exchange.

    Args:
        clock: Monotonic seconds.
        render: Another shape of problem.
        identifies: Whether a response has its request's id.
        added: Headers of each response that does not set them itself, with names in lower case.
        has_cors: Whether it is decided here what pages of other origins may read.
        lifecycle: Holds whether the service drains, which responses say then.
        limits: How large and slow a client may be; None for as it likes.
        running: Holds the requests under way, each with its deadline.
        stream_timeout: The limit of a response in pieces, from the request's beginning.
        answered: Called at the last byte of each response.
        opened: Called as a WebSocket is accepted.
        observer: Receives each of these that raises.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        render: Render | None,
        identifies: bool,
        added: Headers,
        has_cors: bool,
        lifecycle: Lifecycle | None,
        limits: TransferLimits | Callable[[Scope], TransferLimits] | None,
        running: RunningRequests | None,
        stream_timeout: float,
        answered: Sequence[Record],
        opened: Sequence[Record],
        observer: Observer,
    ) -> None:
        self.clock: Clock = clock
        self.render: Render | None = render
        self.identifies: bool = identifies
        self.added: Headers = tuple(added)
        self.process: Lifecycle | None = lifecycle
        names = {name for name, _ in added}
        self.has_cors: bool = has_cors
        self.owned: frozenset[bytes] = frozenset(
            names
            | ({b"x-request-id"} if identifies else set[bytes]())
            | (GRANTS if has_cors else frozenset())
        )
        self.limits: TransferLimits | Callable[[Scope], TransferLimits] | None = limits
        self.is_bounded: bool = limits is not None
        self.room: float = _ROOM if self.is_bounded else math.inf
        # -1: it has to be asked.
        self.max_body: float = (
            limits.max_body_bytes
            if isinstance(limits, TransferLimits)
            else -1
            if self.is_bounded
            else math.inf
        )
        self.requests: RunningRequests | None = running
        self.stream_timeout: float = stream_timeout
        self.answered: tuple[Record, ...] = tuple(answered)
        self.opened: tuple[Record, ...] = tuple(opened)
        self.observe: Observer = observer

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
