"""Events that policies and runners emit to an observer.

They are tuples, since several are made for each statement: a frozen dataclass takes four to nine
times as long.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from inspect import ismethod
from typing import Final, NamedTuple
from weakref import WeakMethod

from .validation import validation

_LOG: Final = logging.getLogger("postfacta")


class Mode(StrEnum):
    """How a policy's decisions are used; it may be set at any time.

    `ENFORCE` acts on them. `SHADOW` decides and counts, and lets everything pass. `OFF` does not
    even decide.
    """

    ENFORCE = "enforce"
    SHADOW = "shadow"
    OFF = "off"


class Sample(NamedTuple):
    """One number of a policy now, with its label values in the order of `telemetry.catalogue`."""

    metric: str
    labels: tuple[str, ...]
    value: float


Tally = Callable[[], Iterable[Sample]]
"""Reads the numbers of a policy."""


class PolicyCreated(NamedTuple):
    """A policy was created.

    `tally`, kept weakly, reads its counts at the scrape, in any thread, and must not wait.
    """

    policy: str
    tally: Tally


class ModeChanged(NamedTuple):
    """The mode of a policy was changed."""

    policy: str
    old: Mode
    new: Mode


class CircuitChanged(NamedTuple):
    """A circuit changed from one state to another at a moment of its clock.

    `reason` is one of a closed set.
    """

    breaker: str
    old: str
    new: str
    at: float
    reason: str


class RetryScheduled(NamedTuple):
    """A try failed, and another follows `delay` seconds later.

    `attempt` counts those made, from 1.
    """

    policy: str
    attempt: int
    delay: float
    error_type: str


class StoreChanged(NamedTuple):
    """A shared store of a rate limit became unavailable or recovered, without an `error` then."""

    policy: str
    available: bool
    error: str = ""


class FeedRead(NamedTuple):
    """The source of a feed cannot be read, or can be again, without an `error` then."""

    feed: str
    available: bool
    error: str = ""


class LoopLagged(NamedTuple):
    """The event loop ran `seconds` later than it should have."""

    seconds: float


class LoopBlocked(NamedTuple):
    """One step has kept the event loop from running for `seconds` so far, in a request or not.

    `where` is its file, line and function, outside of the standard library. It `is_told` once a
    minute.
    """

    route: str
    request_id: str
    seconds: float
    where: str
    is_told: bool


class ConnectionHeld(NamedTuple):
    """A request holds a connection of a `pool` while its response streams: once for each loan.

    It has had it for `seconds`, the last 5 of them without a statement.
    """

    pool: str
    route: str
    request_id: str
    seconds: float


class ListenerFailed(NamedTuple):
    """A listener or observer raised; `error` is the repr of the error."""

    policy: str
    error: str


@dataclass(frozen=True, slots=True)  # A tuple has another `count`.
class LogsSuppressed:
    """Log records of one kind were sampled or too frequent.

    `count` were not written since the last report.
    """

    event: str  # A logger's or an event's name from the code, never a message's text.
    count: int


class HealthChecked(NamedTuple):
    """A background check ended; `up` is the verdict after hysteresis, `passed` this one result."""

    check: str
    critical: bool
    passed: bool
    up: bool
    seconds: float
    error: str = ""


class ConnectionOpened(NamedTuple):
    """A pool tried to open a connection; `error_type` is empty if it could."""

    pool: str
    seconds: float
    error_type: str = ""


class ConnectionAcquired(NamedTuple):
    """A caller's wait for a connection ended, with one or with an error."""

    pool: str
    seconds: float
    error_type: str = ""


class ConnectionReleased(NamedTuple):
    """A connection was returned after `seconds` of use."""

    pool: str
    seconds: float


class QueryFinished(NamedTuple):
    """A statement or transaction step of a `Database` ended; on success there is no `sqlstate`.

    `system` is the product, `postgresql`; `operation` the first word, such as `SELECT`, and
    `collection` the table it is about, or empty. It took `seconds` from sent to answered, without
    the wait for a connection. For spans only are `namespace`, the database's name on its server,
    and `server`, its host.
    """

    database: str
    system: str
    operation: str
    collection: str
    seconds: float
    namespace: str = ""
    server: str = ""
    sqlstate: str = ""
    error_type: str = ""


class HttpCallFinished(NamedTuple):
    """One try of a call to another service ended, `seconds` before its response began or it failed.

    What a failure leaves unknown is empty or 0: the method sent, the host asked, its port, the
    status. `error_type` is empty on success; else the status from 400 up, or the class of the
    error.
    """

    service: str
    method: str
    address: str
    port: int
    status: int
    seconds: float
    error_type: str = ""


class StreamFinished(NamedTuple):
    """A response in pieces that another service sent has `ended`, `seconds` after it was asked for.

    `complete`: read to its end; `first` or `idle`: no piece that counts came in time; `cut`: its
    connection broke; `left`: its reader closed it. Of its `pieces` that count the first came
    `first_seconds` after the request was sent, or none did.
    """

    service: str
    ended: str
    seconds: float
    pieces: int
    first_seconds: float | None = None


class DeadlineExceeded(NamedTuple):
    """A request's time ran out at a `stage`.

    `ingress` (it came too late), `handler`, `handshake`, `work`, `pool`, `database`, `timeout`.

    Or `client`: there was none left for a call to another service.
    """

    stage: str


@dataclass(frozen=True, slots=True)  # A tuple has another `count`.
class RequestsOverdue:
    """Handlers were cancelled and still run, as one in a thread does; `count` of them."""

    count: int


class PhaseChanged(NamedTuple):
    """The service moved from one phase of its life to another at a moment of its clock."""

    old: str
    new: str
    at: float


class SignalsIntercepted(NamedTuple):
    """The signal handling is installed; `in_place` says whether this library gets SIGTERM first."""

    mechanism: str
    in_place: bool


class Drained(NamedTuple):
    """The service is closed; its last request and work had ended `seconds` after the drain began.

    `left` outlived it: they did not heed a cancellation, or are tasks that requests made by
    themselves. Names as `mail x2, audit`: in `work` of the work that was cancelled, in `tasks` of
    these tasks.
    """

    cancelled: int
    left: int
    seconds: float
    work: str = ""
    tasks: str = ""


class ResourceStuck(NamedTuple):
    """A resource did not close within its share of the time, and was cancelled."""

    resource: str
    seconds: float


class TaskCrashed(NamedTuple):
    """A background task raised; its owner restarts it, or works without it.

    Or work that `spawn` began failed, or ran out of time.
    """

    task: str
    error: Exception


Event = (
    ListenerFailed
    | LogsSuppressed
    | HealthChecked
    | ConnectionOpened
    | ConnectionAcquired
    | ConnectionReleased
    | ConnectionHeld
    | QueryFinished
    | HttpCallFinished
    | StreamFinished
    | RequestsOverdue
    | PhaseChanged
    | SignalsIntercepted
    | Drained
    | ResourceStuck
    | TaskCrashed
    | DeadlineExceeded
    | PolicyCreated
    | ModeChanged
    | CircuitChanged
    | RetryScheduled
    | StoreChanged
    | FeedRead
    | LoopLagged
    | LoopBlocked
)
"""Any of the records: match on its class."""


Observer = Callable[[Event], None]
"""Receives events: metrics, spans, logs, tests. It must be quick and not wait."""


def ignore(event: Event, /) -> None:
    """Ignore the event."""


def fan_out(observers: Sequence[Observer]) -> Observer:
    """Join observers into one that never raises: the others get an event for the failure too."""

    def tell(event: Event, /) -> None:
        for observer in observers:
            try:
                observer(event)
            except Exception as error:  # noqa: BLE001 - an observer is foreign code, and may raise anything
                if not isinstance(event, ListenerFailed):
                    # The name as it is in the code: a function's own, or the class of an object.
                    name = getattr(observer, "__qualname__", type(observer).__qualname__)
                    tell(ListenerFailed(name, repr(error)))

    return tell


def weakly(tally: Tally) -> Callable[[], Tally | None]:
    """Refer weakly to a bound tally, so that it does not keep its policy alive.

    A plain function stays.
    """
    return WeakMethod(tally) if ismethod(tally) else lambda: tally


class _ProcessObserver:
    """By default that of the last `asgi.Telemetry`, which is shown earlier policies, too."""

    def __init__(self) -> None:
        self.observer: Observer = ignore
        self._created: deque[tuple[str, Callable[[], Tally | None]]] = deque()

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, PolicyCreated):
            # What is gone is dropped by twos as what is new comes: no callback runs in the
            # collector.
            with suppress(IndexError):
                for _ in range(2):
                    if (entry := self._created.popleft())[1]() is not None:
                        self._created.append(entry)
            self._created.append((event.policy, weakly(event.tally)))
        self.observer(event)

    def use(self, observer: Observer) -> None:
        """Send events to this observer from now on, and show it every policy that exists."""
        self.observer = observer
        for name, tally in tuple(self._created):
            if (living := tally()) is not None:
                self.observer(PolicyCreated(name, living))

    def clear(self) -> None:
        """Drop the observer and all policies: for use between tests."""
        self.observer = ignore
        self._created.clear()


process_observer: Final = _ProcessObserver()
"""The observer of every policy by default."""


def observing(owner: str, name: str, observer: Observer | None) -> Observer:
    """Check the `observer` of a policy, and make it one that never raises.

    One that raises is reported under the policy's name, to the process's observer or else once to
    the log.

    Raises:
        ValueError: If it cannot be called. None ignores all events.
    """
    if observer is None or observer is ignore:
        return ignore
    validation.function(
        f"{owner}.observer", observer, example="observer=telemetry.observer, or None"
    )
    is_reported = False

    def tell(event: Event, /) -> None:
        nonlocal is_reported
        try:
            observer(event)
        except Exception as error:  # noqa: BLE001 - an observer is foreign code, and may raise anything
            if isinstance(event, ListenerFailed):
                return
            fallback = [] if observer is process_observer else [process_observer]
            fan_out([observer, *fallback])(ListenerFailed(name, repr(error)))
            if process_observer.observer is ignore and not is_reported:
                is_reported = True
                _LOG.error("listener.failed", extra={"policy": name, "error": repr(error)})

    return tell
