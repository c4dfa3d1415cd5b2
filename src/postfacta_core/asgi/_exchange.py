"""One request and its response: the state of both, with what the client sends.

Each message passes one coroutine, in which the rules of all parts stand in the order of `stack`.
What is rare has a method of its own: a refusal, a slow body, a cancellation, a client that leaves.
`_response` has what is sent, `_pace` how fast.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final, Literal

import anyio

from ..context import RequestContext
from ..deadlines._limits import may_have_body
from ..deadlines.requests import ClientWait
from ..limits._overload import Ending
from ..telemetry.exchange import CLIENT_DISCONNECTED
from ._answering import Headers, Shared
from ._concurrency import watched
from ._problem import BODY_TOO_LARGE, BODY_TOO_SLOW, Problem
from ._response import Responding
from ._rules import Rules
from ._sse import EventStream
from ._state import HANDED_ON, INCOMING, NONE, REFUSED, RESPONSE, SENDING, Event
from ._types import Message, Receive, Scope, Send

_POLL: Final = 0.1  # Seconds between two looks at a state that nothing announces.
# Messages received ahead of an application that does not read: only empty bodies can be as many.
_MOST_QUEUED: Final = 8
# A client that takes longer for a piece of its body makes the request's length say nothing of the
# service.
_SLOW: Final = 0.02
_READ: Final = INCOMING[Event.READ]
# Closing a connection on which bytes still arrive resets it, and the client may lose the answer
# with it.
_LINGER: Final = 2.0


class HttpExchange(Responding):
    """One HTTP request and its response.

    Its client is watched once it is older than 0.2 s and has its body.
    """

    # What each request looks at lies in slots, since the interpreter reads an attribute of the
    # class through its instance slowly; what only some look at is found in the classes above.
    __slots__ = (
        "_events",
        "_in",
        "_is_read",
        "_out",
        "_response_headers",
        "admitted",
        "already",
        "began",
        "client",
        "error",
        "error_type",
        "fields",
        "headers",
        "incoming",
        "is_answered",
        "is_held",
        "is_plain",
        "is_stream",
        "local_path",
        "method",
        "path",
        "quiet",
        "request",
        "request_bytes",
        "response",
        "response_bytes",
        "route",
        "rules",
        "scheme",
        "scope",
        "seconds",
        "shared",
        "shedding",
        "span",
        "status",
        "task",
        "traffic",
    )

    is_socket: Literal[False] = False
    is_watched: bool = True
    _queue: list[Message] | None = None
    _news: anyio.Event | None = None  # While it is read ahead of its application.
    _paused_at: float | None = None  # While it has no slot, for it waits for its client.
    _waited: float = 0.0
    _since: float | None = None  # When a wait for its client began.

    def __init__(  # noqa: PLR0917 - by position: it is made for each request
        self,
        shared: Shared,
        rules: Rules,
        request: RequestContext,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self.shared = shared
        self.rules = rules
        self.request = request
        self.scope = scope
        self._in = receive
        self._out = send
        self.method = scope["method"]
        self.path = scope["path"]
        self.headers = scope["headers"]
        client = scope.get("client")
        self.client = client[0] if client else ""
        self.fields: Headers = ()
        self._response_headers: Headers = ()
        self.status = self.request_bytes = self.response_bytes = self.already = 0
        self.response = NONE
        self.incoming = SENDING
        self.is_answered = self.is_held = self.quiet = self.is_stream = self._is_read = False
        self.error = self.task = self.span = None
        # What it answers with, if something of ours may come between two of them.
        self._events: EventStream | None = None
        self.route = self.error_type = ""
        self.traffic = "user"
        self.seconds = 0.0
        self.is_plain = True
        self.scheme = scope.get("scheme", "http")

    @property
    def http_version(self) -> str:  # type: ignore[override] # it is asked for by what is rare
        return str(self.scope.get("http_version", "1.1"))

    # How far it is

    @property
    def has_cut_off(self) -> bool:
        """Whether the application got a disconnect in place of what its client sends."""
        return self.incoming is REFUSED

    # The request

    async def receive(self) -> Message:
        """Receive what the client sends, or sent while it was watched, without a slot meanwhile."""
        try:
            if not self.is_plain and self._queue is not None:
                while self._news is not None and not self._queue:
                    self._give_place(self.shared.clock())
                    await self._news.wait()
                if self._queue:
                    return self._queue.pop(0)
            self._is_read = True
            return await self._take()
        finally:
            self._is_read = False
            if not self.is_plain:
                self._go_on()

    def _go_on(self) -> None:
        self.rouse()
        if self._paused_at is not None:
            is_evidence = self.shared.clock() < self._paused_at + _SLOW
            self._paused_at = None
            self.come_back(is_evidence=is_evidence)

    def _give_place(self, now: float) -> None:
        # With the body complete, it is the client's leaving for which an application may look while
        # it works.
        if self.is_held and self.incoming is SENDING and not self._away:
            self._paused_at = now
            self.step_aside()

    async def _take(self) -> Message:
        if self.incoming is REFUSED:
            return {"type": "http.disconnect"}
        if self.incoming is not SENDING:
            message = await self._in()
        else:
            is_unswept = self.shared.is_bounded and self.shared.sweep.loop is None
            try:
                message = await watched(self._in_time() if is_unswept else self._in(), self._wait)
            except BaseException as error:
                if not self._was_cut(error):
                    raise
                message = await self._refuse(BODY_TOO_SLOW)
            else:
                if self._since is not None:
                    self._was_cut(None)
        kind = message["type"]
        if kind == "http.request":
            if not message.get("more_body", False):
                self.incoming = _READ[self.incoming]
            received = self.request_bytes = self.request_bytes + len(message.get("body", b""))
            if received > self.rules.limits.max_body_bytes:
                return await self._refuse(BODY_TOO_LARGE)
        elif kind == "http.disconnect":
            self.leave()
        return message

    def _wait(self) -> None:
        now = self._since = self.shared.clock()
        if self._is_read:
            self._give_place(now)
        loop = self.shared.sweep.loop if self.shared.is_bounded else None
        if loop is not None and self._may_bring_more():
            self.reading = ClientWait(loop)
            self.reading.begin(self._next_due(now))
            self.rouse()

    def _was_cut(self, error: BaseException | None) -> bool:
        """End the wait; return whether the sweep ended it."""
        if self._since is None:
            return False
        self._waited += self.shared.clock() - self._since
        self._since = None
        return self.reading.end(error)

    async def _in_time(self) -> Message:
        now = self.shared.clock()
        with anyio.move_on_after(self._next_due(now) - now if self._may_bring_more() else math.inf):
            return await self._in()
        return await self._refuse(BODY_TOO_SLOW)

    def _may_bring_more(self) -> bool:
        return self.request_bytes > 0 or may_have_body(self.headers, self.http_version)

    def _next_due(self, now: float) -> float:
        return self.rules.limits.next_chunk_due(
            now, received=self.request_bytes, waited=self._waited
        )

    async def _refuse(self, problem: Problem) -> Message:
        can_answer = self.response is NONE
        if problem is BODY_TOO_LARGE and self.incoming is SENDING and can_answer:
            await self.refuse_unread()
            return {"type": "http.disconnect"}
        self._shut()
        if can_answer:
            await self.reply(problem, close=True)
        else:
            self.request.error_type = self.request.error_type or CLIENT_DISCONNECTED
        return {"type": "http.disconnect"}

    def _shut(self) -> None:
        self.response = RESPONSE[Event.TAKE][self.response]
        self.incoming = INCOMING[Event.REFUSE][self.incoming]

    async def refuse_unread(self) -> None:
        """Answer 413, then let the client stop sending before the connection is closed."""
        self._shut()
        await self.reply(BODY_TOO_LARGE, close=True, more_body=True)
        with anyio.move_on_after(_LINGER):
            more = True
            while more:
                message = await self._in()
                self.request_bytes += len(message.get("body", b""))
                if message["type"] == "http.disconnect":
                    self.leave()
                more = message.get("more_body", False)
        # If it left meanwhile, it has its answer.
        with suppress(OSError):
            await self.emit({"type": "http.response.body", "body": b""})

    async def is_abandoned(self) -> bool:
        """Return whether the client has left, which uvicorn sends in place of the body.

        Other messages are kept.
        """
        message = await self.receive()
        self._queue = [message]
        self.is_plain = False
        if message["type"] != "http.disconnect":
            return False
        if self._if_answered is Ending.ANSWERED:
            self._if_answered = Ending.LEFT
        return True

    def _ending(self) -> Ending:
        ending = self._if_answered
        if ending is Ending.ANSWERED:
            return Ending.LOST
        return ending if ending is Ending.LEFT else Ending.UNKNOWN

    # The client

    def may_watch(self) -> bool:
        """Return whether to begin now.

        One that is cancelled when its client leaves is read ahead of in any case.
        """
        if self.rules.cancels:
            return True
        return not self._is_read and (
            self.incoming is not SENDING or not may_have_body(self.headers, self.http_version)
        )

    async def watch(self) -> None:
        """Receive ahead of the application, but no more of a body than one piece.

        Cancel it if it is alone.
        """
        queue = self._queue = [] if self._queue is None else self._queue
        self.is_plain = False
        with anyio.CancelScope() as self._watcher:
            while not (self._has_ended or self.response in HANDED_ON):
                if self._is_read and not self.rules.cancels:
                    # The application sees for itself; the sweep looks whether it goes on to.
                    self.is_watched = True
                    return
                if self._is_read or any(message.get("more_body", False) for message in queue):
                    # The application sees for itself, or has not yet taken what there is.
                    await anyio.sleep(_POLL)
                elif await self._next_message(queue) == "http.disconnect":
                    if self.rules.cancels and self.response not in HANDED_ON:
                        self.cancel(None)
                    return
                elif len(queue) > _MOST_QUEUED:
                    # A server that gives empty bodies for ever never reports a disconnect.
                    return

    async def _next_message(self, queue: list[Message]) -> str:
        news = self._news = anyio.Event()
        try:
            message = await self._take()
            queue.append(message)
            return str(message["type"])
        finally:
            self._news = None
            news.set()
