"""Serve as many requests at once as can be served in time, and refuse the others early."""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from types import coroutine
from typing import Any, Final
from urllib.parse import quote

import anyio
from anyio.lowlevel import checkpoint

from ..clock import LUCK, MONOTONIC, PROCESS, Clock, Luck
from ..context import RequestContext, current_request
from ..errors import LoadShedError
from ..events import Mode, ModeChanged, Observer, PolicyCreated, fan_out, ignore
from ..limits._calm import Calm
from ..limits._overload import Ending, OverloadLimiter
from ..limits._waiting import ADMIT, Admit, Priority, Shed, Wait
from ..validation import validation
from ._problem import Problem, Render, kind_members, problem_of, request_of, send_problem
from ._settings import settings
from ._types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["LoadSheddingMiddleware", "PriorityOf", "aside"]

PriorityOf = Callable[[Scope], Priority | None]
"""Returns how much a request matters; None, or an exception, is `Priority.CRITICAL`."""

# RFC 6455 leaves the registry to IANA: 1013 is "try again later".
_TRY_AGAIN_LATER: Final = 1013
_INTERNAL: Final = 500
# A client that takes longer for a piece of its body makes the request's length say nothing of the service.
_SLOW: Final = 0.02
# A request that came longer ago is not begun before its server was asked whether the client is still there.
_MAY_HAVE_LEFT: Final = 0.02
_NAMES: Final = {priority.name.lower().encode(): priority for priority in Priority}


class LoadSheddingMiddleware:
    """Admit a request, queue it for a moment, or answer 503 with `Retry-After` before any other work is done for it.

    * After its admission a request yields to the event loop once. A handler that keeps the processor busy runs
      to its end in one step: without this, no limit would ever see more than one request at once. While `beat` shows
      that the loop is hardly ever late, there is no queue, and a request skips that yield.
    * A request gives its slot back with the first piece of its response, and counts as answered then: a stream may
      last for hours, and so may a client that does not read.
    * An answer from 500 up, an exception, a deadline and a cancellation count as lost at the age that the request had.
    * Time that a request waited, `RequestContext.waited`, counts as a queue and not as work.
    * Nor does a request hold a slot while it waits for its client's body: else a hundred slow clients would be all that
      is served. If that takes 20 ms or more, the request's duration does not count.
    * A request that came more than 20 ms ago is dropped before it begins if the server says that its client has left.
    * A handler that waits without working, such as a long poll, releases its slot by `aside`.
    * A WebSocket is admitted or refused (close code 1013) at its handshake, and gives its slot back once it is
      accepted. Its duration does not count.

    It belongs innermost, around the application: what it measures must be the application's work.

    Args:
        app: The application.
        limiter: By default one named `requests`. It belongs to one middleware alone.
        priority_of: Returns the priority for a scope, such as by path.
        priority_key: A caller that gives this secret in `X-Priority-Key` may say in `X-Priority` how much its
            request matters: `critical_plus`, `critical`, `sheddable_plus` or `sheddable`. That goes first. Empty
            trusts no caller.
        spares: Returns whether a request that would be shed is served all the same, by the latest moment at which it
            reached the process: one that was under way when a drain began has nowhere else to go.
        trusts: Returns for a scope whether its `X-Priority` counts, besides callers that know the key.
        mode: `shadow` counts requests that would be shed, and admits all immediately.
        render: Another shape of problem, for APIs that have one. Without it a refusal is cheaper.
        observer: Receives the limiter's announcement, and changes of the mode. It may raise.
        clock: Monotonic seconds; it must be the clock of the request contexts.
        processor: Seconds of processor time that the process used: less than a late loop took, if others had the rest.
        luck: Spreads `Retry-After`.

    Attributes:
        limiter: The one that decides.
        calm: Decides which requests skip the yield.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        limiter: OverloadLimiter | None = None,
        *,
        priority_of: PriorityOf | None = None,
        priority_key: str = "",
        spares: Callable[[float], bool] | None = None,
        trusts: Callable[[Scope], bool] | None = None,
        mode: Mode | str = Mode.ENFORCE,
        render: Render | None = None,
        observer: Observer = ignore,
        clock: Clock = MONOTONIC,
        processor: Clock = PROCESS,
        luck: Luck = LUCK,
    ) -> None:
        settings.application("LoadSheddingMiddleware", app)
        if limiter is not None:
            validation.instance("LoadSheddingMiddleware.limiter", limiter, OverloadLimiter, example="None")
        asked = {"priority_of": priority_of, "spares": spares, "trusts": trusts, "render": render}
        for name, function in asked.items():
            settings.function_or_none(f"LoadSheddingMiddleware.{name}", function)
        validation.secret(
            "LoadSheddingMiddleware.priority_key", priority_key, example="a text, or leave it out"
        )
        validation.functions(
            "LoadSheddingMiddleware", observer=observer, clock=clock, processor=processor, luck=luck
        )
        self.limiter: OverloadLimiter = limiter or OverloadLimiter("requests")
        self.limiter.mode = validation.choice("LoadSheddingMiddleware.mode", mode, Mode)
        self._app = app
        self._priority_of = priority_of
        self._key = priority_key.encode()
        self._spares = spares
        self._late = 0.0
        self._trusts = trusts
        self._has_priorities = bool(priority_of or priority_key or trusts)
        self._render = render
        self._refusals: dict[float, _Refusal] = {}
        self._observe = fan_out([observer])
        self.clock: Clock = clock
        self._luck = luck
        self._processor = processor
        self._used = processor()
        self.calm: Calm = Calm()
        self._observe(PolicyCreated(self.limiter.name, self.limiter.tally))

    @property
    def mode(self) -> Mode:
        """How the decisions are used. It may be set at any time; waiting requests are still decided."""
        return self.limiter.mode

    @mode.setter
    def mode(self, mode: Mode | str) -> None:
        new = validation.choice("LoadSheddingMiddleware.mode", mode, Mode)
        old, self.limiter.mode = self.limiter.mode, new
        if new is not old:
            self._observe(ModeChanged(self.limiter.name, old, new))

    def beat(self, late: float) -> None:
        """Record how many seconds late the event loop is, from `LoopLag`."""
        self._late = late
        now, used = self.clock(), self._processor()
        self.calm.beat(late, now, used - self._used)
        self._used = used
        self.limiter.beat(now, self.calm.own)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        limiter, clock = self.limiter, self.clock
        if limiter.mode is Mode.OFF or scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        request = request_of(scope)
        priority = self._priority(scope) if self._has_priorities else Priority.CRITICAL
        if request is not None:
            request.priority = priority
        came = admitted = clock()
        decision = limiter.arrive(priority, admitted, luck=self._luck())
        if decision is not ADMIT:
            if isinstance(decision, Wait):
                wait = decision
                decision = await self._wait(wait, request)
                admitted = wait.decided
            if isinstance(decision, Shed):
                await self._shed(decision, request, scope, receive=receive, send=send)
                return
        permit = _Permit(self, scope, request, admitted, receive, send)
        try:
            permit.started = admitted if self.calm.spares(admitted) else await self._go_round()
            if (
                permit.started - came < _MAY_HAVE_LEFT
                or scope["type"] != "http"
                or not await permit.has_left()
            ):
                await self._app(scope, permit.receive, permit.send)
        finally:
            permit.end()

    async def _go_round(self) -> float:
        await checkpoint()
        return self.clock()

    def _priority(self, scope: Scope) -> Priority:
        if self._key or self._trusts:
            said = given = b""
            for name, value in scope["headers"]:
                if name == b"x-priority":
                    said = value
                elif name == b"x-priority-key":
                    given = value
            if said in _NAMES and self._believes(scope, given):
                return _NAMES[said]
        # Foreign code may raise or lie; what it does must not reach the request.
        try:
            told = self._priority_of(scope) if self._priority_of else None
        except Exception:  # noqa: BLE001 - see above
            return Priority.CRITICAL
        return told if isinstance(told, Priority) else Priority.CRITICAL

    def _believes(self, scope: Scope, given: bytes) -> bool:
        if self._key and hmac.compare_digest(given, self._key):
            return True
        try:
            return self._trusts is not None and self._trusts(scope) is True
        except Exception:  # noqa: BLE001 - foreign code; an error is no trust
            return False

    async def _wait(self, wait: Wait, request: RequestContext | None) -> Admit | Shed:
        limiter, clock = self.limiter, self.clock
        turn = anyio.Event()
        wait.wake = turn.set
        is_here = False
        try:
            with anyio.move_on_after(wait.until - wait.since):
                await turn.wait()
            is_here = True
        finally:
            verdict = limiter.give_up(wait, clock())
            if request is not None:
                request.queued = wait.decided - wait.since
            if not is_here and verdict is ADMIT:
                limiter.finish(clock(), wait.decided, Ending.UNKNOWN)
        return verdict

    def _is_spared(self, request: RequestContext | None) -> bool:
        # A loop that runs late sees a request only so much later.
        return request is not None and self._spares is not None and self._spares(request.started - self._late)

    async def _shed(
        self, shed: Shed, request: RequestContext | None, scope: Scope, *, receive: Receive, send: Send
    ) -> None:
        if self.limiter.mode is not Mode.ENFORCE or self._is_spared(request):
            await self._app(scope, receive, send)
            return
        self.calm.refused()
        refusal = self._refusals.get(shed.retry_after)
        if refusal is None:
            refusal = self._refusals[shed.retry_after] = _Refusal(self.limiter.name, shed.retry_after)
        if request is not None:
            request.route, request.error_type = "_prerouting", refusal.problem.error_type
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER})
        elif self._render is not None:
            await send_problem(scope, send, refusal.problem, render=self._render)
        else:
            await refusal.send(scope, request, send)


class _Permit:
    """The slot of an admitted request: released once, or for a while if its client is slow or it steps aside."""

    __slots__ = (
        "_admitted", "_has_body", "_has_left", "_is_away", "_kept", "_receive", "_request", "_scope", "_send", "_shedding", "_since",
        "_was_away", "is_held", "started", "status",
    )  # fmt: skip

    # By position, and with few of them: it is made for each request.
    def __init__(  # noqa: PLR0917 - see above
        self,
        shedding: LoadSheddingMiddleware,
        scope: Scope,
        request: RequestContext | None,
        admitted: float,
        receive: Receive,
        send: Send,
    ) -> None:
        self.status = 0
        self.is_held = True
        self._shedding = shedding
        self._scope = scope
        self._receive = receive
        self._send = send
        self._request = request
        self._admitted = admitted
        self._has_body = self._has_left = self._is_away = self._was_away = False
        self._kept: Message | None = None
        self._since = self.started = admitted
        if request is not None:
            request.slot = self

    async def receive(self) -> Message:
        """Receive a message; it counts as waiting for the client until the body is complete."""
        if self._kept is not None:
            message, self._kept = self._kept, None
            return message
        # What is received then is the client's leaving, for which an application may look while it works.
        if self._has_body or self._is_away or not self.is_held:
            return await self._receive()
        try:
            message = await _watched(self._receive(), self._pause)
        finally:
            self._go_on()
        self._has_body = not message.get("more_body", False)
        return message

    async def has_left(self) -> bool:
        """Return whether the client has left, which uvicorn sends in place of the body; other messages are kept."""
        self._kept = message = await self.receive()
        self._has_left = message["type"] == "http.disconnect"
        return self._has_left

    def step_aside(self) -> None:
        """Release the slot for a while; the request's duration is no evidence any more."""
        if self.is_held and not self._is_away:
            self._was_away = True
            self._pause()

    def _go_on(self) -> None:
        if self._is_away:
            self._was_away |= self._shedding.clock() >= self._since + _SLOW
            self.come_back()

    def _pause(self) -> None:
        self._is_away = True
        self._since = now = self._shedding.clock()
        self._shedding.limiter.finish(now, self._admitted, Ending.UNKNOWN)

    def come_back(self) -> None:
        """Take a slot again, if it was released."""
        if self._is_away:
            self._is_away = False
            self._shedding.limiter.resume()

    # No coroutine of its own: each that stands between costs.
    def send(self, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
        elif self.is_held and kind in {"http.response.body", "websocket.accept"}:
            self.end()
        return self._send(message)

    def end(self) -> None:
        if not self.is_held:
            return
        self.is_held = False
        request, waited = self._request, 0.0
        if request is not None:
            request.slot = None  # else the two would keep each other alive
            waited = request.waited
        if self._is_away:
            self._is_away = False  # It has no slot to give back.
            return
        shedding = self._shedding
        now = shedding.clock()
        # A foreign endpoint may have no hash; it lasts as long as its route. Waits side by side add up to more.
        kind, waited = id(self._scope.get("endpoint")), min(waited, now - self.started)
        shedding.limiter.finish(
            now, self._admitted, self._ending(), kind, waited, self.started - self._admitted
        )

    def _ending(self) -> Ending:
        if self._was_away or self._scope["type"] != "http":
            return Ending.UNKNOWN
        if self._has_left:
            return Ending.LEFT
        return Ending.ANSWERED if 0 < self.status < _INTERNAL else Ending.LOST


@coroutine
def _watched(awaitable: Awaitable[Message], waits: Callable[[], None]) -> Generator[Any, Any, Message]:
    """Await something, and call a function if it has to wait."""
    steps = awaitable.__await__()
    try:
        step = next(steps)
    except StopIteration as done:
        message: Message = done.value
        return message
    waits()
    while True:
        try:
            try:
                sent = yield step
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as error:  # noqa: BLE001 - a cancellation, which belongs inside
                step = steps.throw(error)
            else:
                step = steps.send(sent)
        except StopIteration as done:
            message = done.value
            return message


@asynccontextmanager
async def aside() -> AsyncGenerator[None]:
    """Release the present request's slot while it waits without working, such as in a long poll.

    Else its wait counts as work under way, and others are refused for it. Afterwards it has a slot again at once.
    Outside of a request, or once its response began, nothing happens.
    """
    request = current_request()
    slot = request.slot if request is not None else None
    if slot is not None:
        slot.step_aside()
    try:
        yield
    finally:
        if slot is not None:
            slot.come_back()


class _Refusal:
    """The answer to a shed request: its constant parts are made once."""

    def __init__(self, limiter: str, retry_after: float) -> None:
        self.problem: Problem = problem_of(LoadShedError(limiter, retry_after))
        self._before = json.dumps(kind_members(self.problem))[:-1] + ', "instance": "'
        self._headers = (
            (b"content-type", b"application/problem+json"),
            (b"cache-control", b"no-store"),
            (b"retry-after", b"%d" % retry_after),
        )

    async def send(self, scope: Scope, request: RequestContext | None, send: Send) -> None:
        path = quote(scope["path"], errors="replace")
        end = '"}' if request is None else f'", "request_id": "{request.request_id}"}}'
        body = f"{self._before}{path}{end}".encode()
        headers: list[tuple[bytes, bytes]] = [*self._headers, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": self.problem.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
