"""Decide whether a request is admitted, waits for a moment or is refused, and refuse it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import ExitStack, asynccontextmanager
from functools import lru_cache
from types import coroutine
from typing import Any, Final, TypeVar

import anyio
from anyio.lowlevel import current_token

from ..clock import LUCK, MONOTONIC, PROCESS, Clock, Luck
from ..context import RequestContext, current_request
from ..deadlines.requests import Running
from ..errors import LoadShedError
from ..events import Mode, ModeChanged, Observer, PolicyCreated, fan_out, ignore
from ..limits._overload import Ending, OverloadLimiter
from ..limits._waiting import ADMIT, Admit, Priority, Shed, Wait
from ..limits.streams import Occupancy
from ..telemetry.exchange import PREROUTING
from ..validation import validation
from ._problem import (
    Problem,
    Render,
    problem_of,
    send_problem,
)
from ._rules import Rules
from ._settings import knows
from ._types import Scope, Send

PriorityOf = Callable[[Scope], Priority | None]
"""Returns how much a request matters; None, or an exception, is `Priority.CRITICAL`."""

T = TypeVar("T")

# RFC 6455 leaves the registry to IANA: 1013 is "try again later".
_TRY_AGAIN_LATER: Final = 1013
# To look it up in the class costs each request more than a global.
_ANSWERED: Final = Ending.ANSWERED
_LATE: Final = 0.005  # Seconds: a beat that comes later than this is no accident of scheduling.
# Seconds of processor time: of a request that is served, and of a refusal, with its server. A core
# reads and refuses some 5,000 requests a second.
_CHEAP = 0.0005
_REFUSAL = 0.00015
# Requests for a mean of their cost: what the process does besides is shared among them.
_FEWEST: Final = 16
# WebSockets that are not accepted yet: one is a task and a connection, some 30 kB.
_HANDSHAKES: Final = 128
_NAMES: Final = {priority.name.lower().encode(): priority for priority in Priority}


class Shedding:
    """Admit a request, queue it for a moment, or answer 503 with `Retry-After` before other work.

    More stands in how-to/load-shedding.md.

    Args:
        limiter: It belongs to one application alone.
        mode: That of the limiter from now on.
        priority_of: See `HardenOptions`, as `key` is its `priority_key`.
        spares: Returns whether a request that would be shed is served all the same, by the latest
            moment at which it reached the process: one that was under way when a drain began has
            nowhere else to go.
        processor: Seconds of processor time that the process used: less than a late loop took, if
            others had the rest.

    Attributes:
        mode: It may be set at any time; waiting requests are still decided.
        begun: Admitted since the cost of requests was last known.
    """

    def __init__(
        self,
        limiter: OverloadLimiter,
        mode: Mode | str = Mode.ENFORCE,
        *,
        priority_of: PriorityOf | None = None,
        key: str = "",
        spares: Callable[[float], bool] | None = None,
        render: Render | None = None,
        observer: Observer = ignore,
        clock: Clock = MONOTONIC,
        processor: Clock = PROCESS,
        luck: Luck = LUCK,
    ) -> None:
        limiter.mode = Mode(mode)
        self.clock: Clock = clock
        self.render: Render | None = render
        self.observe: Observer = fan_out([observer])
        self.limiter: OverloadLimiter = limiter
        self.begun: int = 0
        # To refuse one costs about as much as to serve it: nothing is won by the yield that shows
        # the loop's queue.
        self.is_cheap: bool = False
        self.luck: Luck = luck
        self.is_off: bool = limiter.mode is Mode.OFF
        # Whether a request may have its priority from its scope, or its route a mode of its own.
        self.is_special: bool = bool(priority_of or key)
        self._priority_of = priority_of
        self._key = key
        self._spares = spares
        self._late = 0.0
        self._processor = processor
        self._used = processor()
        self._own_share = 1.0
        self._busy = 0.0
        self._refused = 0
        self.handshakes: Occupancy = Occupancy(_HANDSHAKES, _HANDSHAKES // 2)
        self.observe(PolicyCreated(limiter.name, limiter.tally))

    @property
    def mode(self) -> Mode:
        return self.limiter.mode

    @mode.setter
    def mode(self, mode: Mode | str) -> None:
        new = validation.choice("Shedding.mode", mode, Mode)
        old = self.limiter.mode
        self.limiter.mode = new
        self.is_off = new is Mode.OFF
        if new is not old:
            self.observe(ModeChanged(self.limiter.name, old, new))

    def beat(self, late: float) -> None:
        """Note how many seconds late the event loop is, as `RunningRequests.on_beat` does."""
        self._late = late
        used = self._processor()
        busy = used - self._used
        self._used = used
        own_share = min(1.0, busy / late) if late >= _LATE else 1.0
        self._own_share += (own_share - self._own_share) / 2
        self._busy += busy
        if self.begun >= _FEWEST:
            self.is_cheap = self._busy - self._refused * _REFUSAL < self.begun * _CHEAP
            self._busy = 0.0
            self.begun = 0
            self._refused = 0
        self.limiter.beat(self.clock(), self._own_share)

    def arrive(self, exchange: Slotted, scope: Scope) -> Admit | Wait | Shed | None:
        """Decide about a request that came now; None if it is to be served without a slot."""
        rules = exchange.rules
        request = exchange.request
        if rules.shedding is Mode.OFF:
            return None
        priority = request.priority = self.priority(scope, rules.priority)
        now = self.clock()
        mode = rules.shedding or self.limiter.mode
        decision = self.limiter.arrive_in(
            mode, priority, now, luck=self.luck(), client_of=exchange.whose
        )
        return self._give_back(decision, rules)

    def _give_back(self, decision: T, rules: Rules) -> T | None:
        """Return the decision.

        None, without its slot, if the request was admitted and only waits.
        """
        if decision is ADMIT and rules.waits:
            self.release_at_once()
            return None
        return decision

    def release_at_once(self) -> None:
        """Give back the slot of what was admitted and needs none."""
        now = self.clock()
        self.begun += 1
        self.limiter.finish(now, now, Ending.UNKNOWN)

    def priority(self, scope: Scope, default: Priority = Priority.CRITICAL) -> Priority:
        if self._key:
            headers = dict(scope["headers"])
            name = headers.get(b"x-priority", b"")
            if name in _NAMES and knows(self._key, headers.get(b"x-priority-key", b"")):
                return _NAMES[name]
        # Foreign code may raise or lie; what it does must not reach the request.
        try:
            priority = self._priority_of(scope) if self._priority_of else None
        except Exception:  # noqa: BLE001 - see above
            return default
        return priority if isinstance(priority, Priority) else default

    async def wait(self, wait: Wait, rules: Rules, request: RequestContext) -> Admit | Shed | None:
        limiter = self.limiter
        clock = self.clock
        turn = anyio.Event()
        wait.wake = turn.set
        is_here = False
        try:
            with anyio.move_on_after(wait.until - wait.since):
                await turn.wait()
            is_here = True
        finally:
            verdict = limiter.give_up(wait, clock())
            request.queued = wait.decided - wait.since
            if not is_here and verdict is ADMIT:
                limiter.finish(clock(), wait.decided, Ending.UNKNOWN)
        return self._give_back(verdict, rules)

    def spares(self, request: RequestContext, rules: Rules) -> bool:
        """Return whether one that would be refused is served all the same."""
        if (rules.shedding or self.limiter.mode) is not Mode.ENFORCE:
            return True
        # A loop that runs late sees a request only so much later.
        return self._spares is not None and self._spares(request.started - self._late)

    async def refuse(  # noqa: PLR0917 - as the parts are called
        self, shed: Shed, request: RequestContext, scope: Scope, send: Send
    ) -> None:
        self._refused += 1
        problem = _refusal(self.limiter.name, shed.retry_after)
        request.route = PREROUTING
        request.error_type = problem.error_type
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER})
        else:
            await send_problem(scope, send, problem, render=self.render)


class Slotted(Running):
    """What may have a slot of the limiter: released once, or for a while if it only waits."""

    shedding: Shedding
    rules: Rules
    client: str
    is_held: bool = False
    is_plain: bool
    is_answered: bool = False
    admitted: float = 0.0
    began: float = 0.0
    scope: Scope
    _away: int = 0  # How often it was released and not taken again.
    _is_silent: bool = False  # It gave its slot up, since it may never end.
    _if_answered: Ending = Ending.ANSWERED

    def land(self) -> None:
        """Release the slot for good, and tell the limiter how the request ended."""
        self.is_held = False
        request = self.request
        request.slot = None  # else the two would keep each other alive
        if not self.is_plain and self._away:
            is_silent = self._is_silent and self._away == 1
            self._away = 0
            if not is_silent:
                return  # It has no slot to give back.
            self.shedding.limiter.resume()
        now = self.shedding.clock()
        began = self.began
        # Waits side by side add up to more than the time that has passed.
        waited = min(request.waited, now - began) if request.waited else 0.0
        # A foreign endpoint may have no hash; it lasts as long as its route.
        kind = id(self.scope.get("endpoint"))
        answered = _ANSWERED if self.is_plain else self._if_answered
        ending = answered if self.is_answered else self._ending()
        self.shedding.limiter.finish(
            now, self.admitted, ending, kind, waited, began - self.admitted
        )

    def _ending(self) -> Ending:
        return Ending.UNKNOWN

    def step_aside(self) -> None:
        if not self.is_held:
            return
        self._away += 1
        if self._away == 1:
            self.is_plain = False
            self.shedding.limiter.finish(self.shedding.clock(), self.admitted, Ending.UNKNOWN)

    def come_back(self, *, is_evidence: bool = False) -> None:
        if not self._away:
            return
        self._away -= 1
        if not is_evidence:
            self._if_answered = Ending.UNKNOWN
        if not self._away:
            self.shedding.limiter.resume()

    def lend(self) -> bool:
        try:
            current_token()
        except RuntimeError:  # It belongs to the event loop, and this is a worker thread.
            return False
        self.step_aside()
        return self._away > 0

    def whose(self) -> str:
        """Return the client by which slots are shared.

        As for rates if those know it, else the peer.
        """
        return self.request.client or self.client

    def yield_slot(self) -> str | None:
        # Before its handler began, its kind is unknown, and it is no request's slot yet.
        if self._away or self.request.slot is not self:
            return None
        limiter = self.shedding.limiter
        now = self.shedding.clock()
        kind = id(self.scope.get("endpoint"))
        if limiter.is_silent(kind, self.admitted, now):
            self._away = 1
            self._is_silent = True
            self.is_plain = False
            if limiter.has_answered(kind):
                self.ignore_duration()  # That it is late says nothing of a queue.
            limiter.lend(now)
            return None
        return self.whose()

    def ignore_duration(self) -> None:
        if self._if_answered is _ANSWERED:
            self._if_answered = Ending.UNTIMED
            self.is_plain = False

    async def is_abandoned(self) -> bool:
        """Return whether the client has left before the application began."""
        return False


@coroutine
def watched(awaitable: Awaitable[T], waits: Callable[[], None]) -> Generator[Any, Any, T]:
    """Await something, and call a function if it has to wait."""
    steps: Any = awaitable.__await__()
    try:
        step = next(steps)
    except StopIteration as done:
        result: T = done.value
        return result
    waits()
    while True:
        try:
            try:
                sent = yield step
            except GeneratorExit:
                if hasattr(steps, "close"):
                    steps.close()
                raise
            except BaseException as error:
                # A cancellation, which belongs inside. A server's own awaitable may be a mere
                # iterator.
                if not hasattr(steps, "throw"):
                    raise
                step = steps.throw(error)
            else:
                step = next(steps) if sent is None else steps.send(sent)
        except StopIteration as done:
            result = done.value
            return result
        finally:
            # Of trio it is an outcome, and its error's traceback leads back to this frame.
            sent = None


@asynccontextmanager
async def aside() -> AsyncGenerator[None]:
    """Release the present request's slot while it waits without working, such as in a long poll.

    Else its wait counts as work under way, and others are refused for it. Afterwards it has a slot
    again at once. Outside of a request, or once its response began, nothing happens.
    """
    request = current_request()
    with ExitStack() as afterwards:
        if request is not None and (slot := request.slot) is not None:
            slot.step_aside()
            afterwards.callback(slot.come_back)
        yield


@lru_cache(256)
def _refusal(limiter: str, retry_after: float) -> Problem:
    """Return the problem of a shed request, made once: a flood has the same one each time."""
    return problem_of(LoadShedError(limiter, retry_after))
