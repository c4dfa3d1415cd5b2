"""What both kinds of exchange have in common: the part of their kernel, and an answer of ours.

An answer in the application's place:

1. It is sent once. Who comes second waits until the server has all of it.
2. It is sent only while there is a `reason`, and the response can still be answered.
3. The type of error that was noted first stays.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from ..clock import LUCK, MONOTONIC, Clock
from ..context import RequestContext
from ..deadlines.requests import RunningRequests
from ..drain.lifecycle import Lifecycle
from ..events import ListenerFailed, Observer
from ..limits.address import NO_PROXIES, TrustedProxies
from ..limits.streams import OpenStreams
from ..telemetry.exchange import Exchange
from ._concurrency import Slotted
from ._problem import Problem, Render, problem_of
from ._state import NONE, Response
from ._types import Scope

_SHIELDED: Final = 2.0  # Seconds; any other application is cancelled at once.

Headers = Sequence[tuple[bytes, bytes]]
Record = Callable[[Any], None]
"""A method of a recorder."""


@dataclass(kw_only=True, eq=False, repr=False)
class Shared:
    """What all exchanges of one kernel have in common.

    Of each part, what is asked of it in mid-exchange.
    """

    clock: Clock = MONOTONIC
    render: Render | None = None
    process: Lifecycle | None = None
    requests: RunningRequests | None = None
    streams: OpenStreams | None = None
    # See `asgi._application`, of an `HttpExchange`.
    permit: Callable[[Any], Awaitable[bool]] | None = None
    trusted_traces: TrustedProxies = NO_PROXIES  # Peers whose trace context is followed.
    # Of each response that does not set them itself, in lower case.
    added: Headers = field(init=False)
    # All names that the application may not set beside these.
    owned: frozenset[bytes] = field(init=False)
    sweep: RunningRequests = field(init=False)  # `requests`, or some that never sweep.
    is_bounded: bool = field(init=False)  # Clients have limits of size and pace.
    room: float = field(init=False)  # The size up to which a response is sent without a timer.
    streaming: Sequence[Record] = field(init=False)  # Called at the first piece of a stream.
    answered: Sequence[Record] = field(init=False)  # Called at the last byte of each response.
    opened: Sequence[Record] = field(init=False)  # Called as a WebSocket is accepted.
    observe: Observer = field(init=False)

    def template(self, scope: Scope, request: RequestContext, path: str) -> str:
        """Return the route template of a request whose path is `path` below the `root_path`."""
        raise NotImplementedError

    def tell(self, records: Iterable[Record], exchange: Exchange) -> None:
        """Call recorders; what one raises reaches neither the request nor the others."""
        for record in records:
            try:
                record(exchange)
            except Exception as error:  # noqa: BLE001 - foreign code
                self.blame(record, error)

    def blame(self, record: Record, error: Exception) -> None:
        self.observe(ListenerFailed(getattr(record, "__qualname__", "recorder"), repr(error)))


class Answering(Slotted):
    """What may be answered in its application's place, if its response can still be sent."""

    shared: Shared
    fields: Headers = ()  # More of its response.
    response: Response = NONE
    _answered: anyio.Event | None = None
    scope: Scope
    local_path: str  # Without the `root_path`.
    _opened_for: str | None = None  # The caller, if it is one of the open streams.

    @property
    def is_followed(self) -> bool:
        peer = self.scope.get("client")
        return self.shared.trusted_traces.includes(peer[0] if peer else None)

    def is_due(self, drained: float) -> bool:
        return drained >= self.rules.drain_timeout or (self.is_endless and self._may_part())

    def _may_part(self) -> bool:
        """Return whether it can be ended in order at this moment."""
        return True

    def may_answer(self) -> bool:
        """Return whether its client can still be answered, or see that it is cut."""
        raise NotImplementedError

    def open(self) -> None:
        """Count it among the open streams, or raise why it is refused."""
        streams = self.shared.streams
        if streams is None or self._opened_for is not None:
            return
        caller = self.whose()
        streams.admit(caller, luck=LUCK())
        self._opened_for = caller
        self.is_plain = False

    async def stop(self) -> None:
        """Cancel its application where it awaits this."""
        self.cancel(None)
        # One that is shielded goes on, and what it sends goes nowhere.
        await anyio.sleep(_SHIELDED)

    def end(self) -> None:
        if self._opened_for is not None and self.shared.streams is not None:
            self.shared.streams.leave(self._opened_for)
            self._opened_for = None
        super().end()

    async def answer(self) -> None:
        if self._answered is not None:
            # An answer under way must reach the server completely before the end.
            await self._answered.wait()
        elif self.reason is not None and self.may_answer():
            self._answered = anyio.Event()
            problem = problem_of(self.reason)
            self.request.error_type = self.request.error_type or problem.error_type
            try:
                await self._tell(problem)
            finally:
                self._answered.set()

    async def _tell(self, problem: Problem) -> None:
        raise NotImplementedError
