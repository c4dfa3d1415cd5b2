"""The context of the request that the present task works for."""

from __future__ import annotations

import math
from contextvars import ContextVar, Token
from dataclasses import KW_ONLY, dataclass
from typing import Final, Protocol

from .clock import MONOTONIC, Clock

__all__ = [
    "RequestContext",
    "Slot",
    "add_wait",
    "bind_request",
    "current_request",
    "ignore_duration",
    "release_request",
]


class Slot(Protocol):
    """A request's slot in the limit on requests under way."""

    def step_aside(self) -> None:
        """Release it for a while; only in the event loop's thread."""

    def come_back(self, *, is_evidence: bool = False) -> None:
        """Take it again, without waiting.

        Unless it `is_evidence`, learn nothing from its request.
        """

    def lend(self) -> bool:
        """Release it while something else bounds its request; return whether that could be done."""
        ...

    def ignore_duration(self) -> None:
        """Learn nothing from how long its request takes; it may be called in any thread."""


# Two hops in a row keep a twentieth of the time each, and 5 ms at least.
_NEARLY: Final = 0.02
_NEARLY_SHARE: Final = 0.1


@dataclass(slots=True, eq=False, repr=False)
class RequestContext:
    """One request's identity, shared by all layers that it passes.

    It refers to no scope, task or handle: a request must leave no garbage for the cyclic collector.

    Attributes:
        request_id: Matches `^[A-Za-z0-9._-]{8,64}$`.
        started: When the outermost layer saw it, in the seconds of its clock.
        clock: Monotonic seconds.
        caller_timeout: The seconds that the caller gives it, as a header said; `math.inf` without
            one.
        limit: The seconds that the service gives it; `math.inf` for any number.
        deadline: When it must have ended, in the seconds of its clock; `math.inf` if it may take
            for ever, or is over.
        queued: Seconds for which it waited to be admitted.
        waited: Seconds for which it waited after that, such as for a connection of a pool; see
            `add_wait`.
        slot: Its part of the limit on requests under way; None before it is admitted and once its
            response began.
        priority: How much it matters, a `limits._waiting.Priority`: 0 the most, 3 the least.
        client: The key of rate limits by default: an address, or an IPv6 /64; empty until it is
            known.
        root_path: The server's own `root_path`, before any mount added to it.
        route: The route template once its response streams, such as `/incidents/{ref}`; until it is
            known None.
        trace_id: The trace, 32 hex digits: the server span's; without a recording SDK the one that
            the caller's `traceparent` names; else empty.
        span_id: The server span, 16 hex digits, or empty.
        trace_flags: Two hex digits, whose lowest bit says that the trace is sampled; empty without
            a span.
        error_type: Why a layer refused or failed it, for metric, span and log; empty if none did.
        principal: Who asks, for the access line: set by the application once it is known.
    """

    request_id: str
    started: float
    clock: Clock = MONOTONIC
    root_path: str = ""
    _: KW_ONLY
    caller_timeout: float = math.inf
    limit: float = math.inf
    deadline: float = math.inf
    priority: int = 1
    queued: float = 0.0
    waited: float = 0.0
    slot: Slot | None = None
    client: str = ""
    route: str | None = None
    trace_id: str = ""
    span_id: str = ""
    trace_flags: str = ""
    error_type: str = ""
    principal: str = ""

    @property
    def deadline_is_callers(self) -> bool:
        """Whether the caller gives the request less time than the service does."""
        return self.caller_timeout < self.limit

    def age(self) -> float:
        """Return the seconds since it started."""
        return self.clock() - self.started

    def is_out_of_callers_time(self, age: float) -> bool:
        """Return whether the caller's own, shorter time has run out, or nearly, at this age.

        What fails then is no failure of the service. "Nearly", since pools and outgoing calls keep
        a share of the time.
        """
        timeout = self.caller_timeout
        return timeout < self.limit and age >= timeout - max(_NEARLY, timeout * _NEARLY_SHARE)


CURRENT: Final[ContextVar[RequestContext | None]] = ContextVar("postfacta_request", default=None)
"""The present request; set directly where a call more is too much."""


def current_request() -> RequestContext | None:
    """Return the request the present task works for, or None outside of one."""
    return CURRENT.get()


def add_wait(seconds: float) -> None:
    """Add to what the present request has waited; outside of one nothing happens."""
    if (request := CURRENT.get()) is not None:
        request.waited += seconds


def ignore_duration() -> None:
    """Have the limiter on requests under way learn nothing from how long the present request takes.

    Call it where one request pays for what others will use, such as a new connection of a pool.
    """
    if (request := CURRENT.get()) is not None and (slot := request.slot) is not None:
        slot.ignore_duration()


def lend_slot() -> Slot | None:
    """Release the present request's slot while something else bounds it.

    Return what `reclaim_slot` takes back.

    None if there is none to release: outside of a request, once its response began, or in a worker
    thread.
    """
    request = CURRENT.get()
    if request is None or (slot := request.slot) is None or not slot.lend():
        return None
    return slot


def reclaim_slot(slot: Slot | None) -> None:
    """Take back what `lend_slot` returned.

    How long it was lent says nothing of how long such requests take.
    """
    if slot is not None:
        slot.ignore_duration()
        slot.come_back(is_evidence=True)


def bind_request(request: RequestContext | None) -> Token[RequestContext | None]:
    """Make it the present one; release it, or the task keeps itself alive in a reference cycle."""
    return CURRENT.set(request)


def release_request(token: Token[RequestContext | None]) -> None:
    """Restore what was bound before."""
    CURRENT.reset(token)
