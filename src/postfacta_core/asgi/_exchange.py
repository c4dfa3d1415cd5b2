"""One request and its response: the state of both, one `receive`, one `send`.

Each message passes one coroutine, in which the rules of all parts stand in the order of `stack`.
What is rare has a method of its own: a refusal, a slow body, a long response, a cancellation, a
client that leaves.

How a response ends that is cut by a deadline or a drain:

1. Nothing was sent: a problem is sent in its place.
2. It has begun: it stays unfinished, without a last body, so that the server breaks the connection
   (HTTP/1) or resets the stream (HTTP/2), and the client knows. Nothing is added: it would be part
   of the application's protocol.
3. It is a stream of events whose client resumes by itself, and a drain cuts it between two events:
   it gets a `retry:`, and ends in order.
4. Its client has left: nothing is sent, and it is counted as left, whatever comes later.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final, Literal, NoReturn

import anyio
from anyio.lowlevel import checkpoint

from ..context import RequestContext
from ..deadlines._limits import may_have_body
from ..deadlines.requests import NO_WAIT, ClientWait
from ..errors import StoppedError
from ..limits._overload import Ending
from ..telemetry.exchange import CLIENT_DISCONNECTED, ErrorTypes, Exchange
from ._answering import Answering, Headers, Shared
from ._concurrency import watched
from ._cors import GRANTS
from ._problem import BODY_TOO_LARGE, BODY_TOO_SLOW, Problem, send_problem
from ._rules import Rules
from ._sse import MEDIA_TYPE, EventStream, are_events, farewell, is_resumed
from ._types import Message, Receive, Scope, Send

_OK = 200
_INTERNAL = 500
_NEVER: Final = math.inf  # An attribute of a module costs each request more than a global.
# What carries the response's bytes, or a file that the server sends in their place.
_CONTENT_TYPE: Final = len(b"content-type")
_BODY: Final = frozenset(
    {"http.response.body", "http.response.pathsend", "http.response.zerocopysend"}
)
_POLL: Final = 0.1  # Seconds between two looks at a state that nothing announces.
# Messages received ahead of an application that does not read: only empty bodies can be as many.
_MOST_QUEUED: Final = 8
# A client that takes longer for a piece of its body makes the request's length say nothing of the
# service.
_SLOW: Final = 0.02
# Each piece of a longer one must get away within the write timeout; so it decides what rate a
# reader needs.
_PIECE: Final = 65_536
_DOES_NOT_READ: Final = "the client does not read its response"
# Closing a connection on which bytes still arrive resets it, and the client may lose the answer
# with it.
_LINGER: Final = 2.0


class HttpExchange(Answering, Exchange):
    """One HTTP request and its response.

    Its client is watched once it is older than 0.2 s and has its body.
    """

    # What each request looks at lies in slots, since the interpreter reads an attribute of the
    # class through its instance slowly; what only some look at is found in the classes above.
    __slots__ = (
        "_has_body",
        "_in",
        "_is_ending",
        "_is_read",
        "_is_waiting",
        "_out",
        "_response_headers",
        "_scope",
        "admitted",
        "already",
        "began",
        "caller_trace",
        "client",
        "error",
        "error_type",
        "fields",
        "has_begun",
        "headers",
        "is_answered",
        "is_complete",
        "is_held",
        "is_plain",
        "is_stream",
        "method",
        "path",
        "quiet",
        "request",
        "request_bytes",
        "response_bytes",
        "route",
        "rules",
        "scheme",
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
    _is_shut: bool = False
    _queue: list[Message] | None = None
    _news: anyio.Event | None = None  # While it is read ahead of its application.
    _since: float = 0.0
    _paused_at: float | None = None  # While it has no slot, for it waits for its client.
    _waited: float = 0.0
    _has_pieces: bool = False
    _is_steady: bool = False  # Nothing is to be looked at as a further piece goes out.
    _events: EventStream | None = (
        None  # What it answers with, if its client resumes that by itself.
    )
    _has_left_early: bool = False  # Before it began.
    _has_left_midway: bool = False  # Before the last byte was sent.
    _is_refused: bool = False
    _is_gone: bool = False

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
        self._scope = scope
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
        self.has_begun = self.is_answered = self.is_complete = self.is_held = False
        self.quiet = self.is_stream = False
        self._has_body = self._is_ending = self._is_read = self._is_waiting = False
        self.error = self.task = self.span = None
        self.route = self.error_type = self.caller_trace = ""
        self.traffic = "user"
        self.seconds = 0.0
        self.is_plain = True
        self.scheme = scope.get("scheme", "http")

    @property
    def http_version(self) -> str:  # type: ignore[override] # it is asked for by what is rare
        return str(self._scope.get("http_version", "1.1"))

    # The response

    async def send(  # noqa: C901, PLR0912, PLR0915 - one line of rules
        self, message: Message, *, is_ours: bool = False
    ) -> None:
        """Send what the application sends, unless its caller was answered without it.

        Or what is ours, as an answer is.
        """
        kind = message["type"]
        is_start = kind == "http.response.start"
        if not is_ours:
            if is_start:
                self.is_answered = message["status"] < _INTERNAL
            elif self.is_held and kind == "http.response.body":
                self.land()
            if not self.is_plain and self._is_shut:
                # A handler that keeps sending is cancelled here, and does not block the loop.
                if self._is_gone:
                    raise ConnectionAbortedError(_DOES_NOT_READ)
                if self._answered is not None:
                    await checkpoint()
                return
        is_last = False
        size = 0
        if is_start:
            self.has_begun = True
            message = self._dress(message)
        elif kind in _BODY:
            is_last = not message.get("more_body", False)
            size = len(message.get("body", b""))
            shared = self.shared
            if not is_ours:
                if shared.requests is not None:
                    if is_last and self.is_plain:
                        self._is_ending = True
                        self.request.deadline = _NEVER
                    elif is_last or not self._is_steady:
                        self._pass_body(message)
                if self.response_bytes + size > shared.room:
                    if size > _PIECE:
                        await self._send_long(message, size, is_last=is_last)
                    else:
                        await self._send_piece(message, size, is_last=is_last)
                    return
        try:
            await self._out(message)
        except OSError:  # So ASGI says that the client is gone.
            self.leave()
            raise
        if is_start:
            self.status = message["status"]
        else:
            self.response_bytes += size
            if is_last:
                if not self.is_complete:
                    self.end_response(is_complete=True)
            elif not self.is_plain and self._events is not None:
                await self._pass_event(self._events, message)

    async def emit(self, message: Message) -> None:
        await self.send(message, is_ours=True)

    def leave(self) -> None:
        self.is_plain = False
        # As the last byte goes out some servers report a disconnect.
        self._has_left_midway |= self.shared.requests is not None and not self._is_ending
        super().leave()

    def end_response(self, *, is_complete: bool = False) -> None:
        """Record the last byte, or the end without one."""
        shared = self.shared
        self.is_complete = is_complete
        self.seconds = self.request.clock() - self.request.started
        for record in shared.answered:
            try:
                record(self)
            except Exception as error:  # noqa: BLE001 - a recorder is foreign code
                shared.blame(record, error)

    def settle(
        self, error: Exception | None, types: ErrorTypes, *, was_cancelled: bool = False
    ) -> None:
        if not self.is_complete:
            self.end_response()
        elif self._has_left_midway:
            self.is_complete = False  # uvicorn takes what is sent to a client that has left.
        super().settle(error, types, was_cancelled=was_cancelled)

    def _dress(self, message: Message) -> Message:
        shared = self.shared
        # Any iterable is legal, and may be read only once.
        answered = self._response_headers = [*message.get("headers", ())]
        owned = shared.owned
        is_plain = shared.process is None or not shared.process.is_draining
        for name, value in answered:
            # A name has another length, as a rule.
            if len(name) == _CONTENT_TYPE and value.startswith(MEDIA_TYPE):
                self._note_events(message["status"], answered)
            if name.lower() in owned:
                is_plain = False
        headers = (
            [*answered, *self.fields, *shared.added]
            if is_plain
            else self._dress_with_care(answered)
        )
        if shared.identifies:
            headers.append((b"x-request-id", self.request.request_id.encode("ascii")))
        # A new message with a new list: an application may send the same objects again and again.
        return {**message, "headers": headers}

    def _note_events(self, status: int, headers: Headers) -> None:
        """Note a stream of events whose client resumes it by itself."""
        has_farewell = self.rules.farewell
        if has_farewell is None:
            has_farewell = self.method == "GET" and is_resumed(self.headers)
        if has_farewell and status == _OK and are_events(headers):
            self._events = EventStream()
            self.is_endless = True
            self.is_plain = False

    def _may_part(self) -> bool:
        if self._events is None:
            return False
        self._events.is_ending = True
        return self._events.is_between

    async def _pass_event(self, events: EventStream, message: Message) -> None:
        events.note(message.get("body", b""))
        if events.is_ending and events.is_between:
            await self._wait_for_end()

    async def _wait_for_end(self) -> None:
        """Let the sweep end the stream here.

        The next event may follow at once, and not end in time.
        """
        while self._answered is None:  # noqa: ASYNC110 - what sets it is made only as it ends
            await anyio.sleep(_POLL)

    def _dress_with_care(self, answered: Headers) -> list[tuple[bytes, bytes]]:
        """Do the same for a response that has such a header, or that is its connection's last."""
        shared = self.shared
        names = {name.lower() for name, _ in answered}
        unwanted = {b"x-request-id"} if shared.identifies else set[bytes]()
        if shared.owned >= GRANTS and b"access-control-allow-origin" in names:
            unwanted |= GRANTS
        # HTTP/2 forbids the field (RFC 9113, section 8.2.2), and has GOAWAY for it.
        process = shared.process
        is_last = process is not None and process.is_draining and self.http_version.startswith("1")
        if is_last:
            unwanted.add(b"connection")
        headers = [pair for pair in answered if pair[0].lower() not in unwanted]
        headers += [
            *self.fields,
            *(pair for pair in shared.added if pair[0] not in names - unwanted),
        ]
        if is_last:
            headers.append((b"connection", b"close"))
        return headers

    def _pass_body(self, message: Message) -> None:
        if not message.get("more_body", False):
            self._is_ending = True
            if self._watcher is not None:
                # Some servers report a disconnect as the last byte goes out.
                self._watcher.cancel()
            self.is_endless = False
            self.limit(math.inf)
            return
        if self._events is not None:
            self._events.is_between = False
        if not self._has_pieces:
            self._has_pieces = True
            self._is_steady = self._events is None
            # Behind Starlette's BaseHTTPMiddleware each response comes in pieces, the last one
            # empty: one whose first piece is all of it is no stream.
            whole = (b"content-length", b"%d" % len(message.get("body", b"")))
            if not any((name.lower(), value) == whole for name, value in self._response_headers):
                self.is_stream = True
                limit = self.request.limit = self.rules.stream_timeout
                self.limit(min(limit, self.request.caller_timeout))

    async def _send_long(self, message: Message, size: int, *, is_last: bool) -> None:
        body: bytes = message["body"]
        for begin in range(0, size, _PIECE):
            piece = body[begin : begin + _PIECE]
            ends = is_last and begin + _PIECE >= size
            if self._events is not None:
                self._events.is_between = False
            part = {**message, "body": piece, "more_body": not ends}
            await self._send_piece(part, len(piece), is_last=ends)

    async def _send_piece(self, message: Message, size: int, *, is_last: bool) -> None:
        """Send what must get away within the write timeout; the sweep ends the wait."""
        wait = self.writing
        requests = self.shared.requests
        if requests is None or requests.loop is None:
            await self._send_with_timer(message)
        else:
            if wait is NO_WAIT:
                wait = self.writing = ClientWait(requests.loop)
            wait.begin(self.shared.clock() + self.rules.limits.write_timeout)
            try:
                await self._out(message)
            except BaseException as error:
                self._give_up(wait, error)
                raise
            if wait.is_cut:
                wait.end()
            wait.due = _NEVER
        self.response_bytes += size
        if is_last:
            if not self.is_complete:
                self.end_response(is_complete=True)
        elif not self.is_plain and self._events is not None:
            await self._pass_event(self._events, message)

    async def _send_with_timer(self, message: Message) -> None:
        try:
            with anyio.move_on_after(self.rules.limits.write_timeout):
                await self._out(message)
                return
        except OSError:
            self.leave()
            raise
        self._stall()

    def _give_up(self, wait: ClientWait, error: BaseException) -> None:
        if wait.end(error):
            self._stall()
        if isinstance(error, OSError):
            self.leave()

    def _stall(self) -> NoReturn:
        self._is_gone = self._is_shut = True
        self.is_plain = False
        # No disconnect is seen: this says why the response will never be complete.
        self.request.error_type = self.request.error_type or CLIENT_DISCONNECTED
        raise ConnectionAbortedError(_DOES_NOT_READ)

    async def reply(
        self, problem: Problem, *, close: bool = False, more_body: bool = False
    ) -> None:
        shared = self.shared
        if shared.permit is not None and await shared.permit(self):
            return
        render = shared.render
        await send_problem(
            self._scope, self.emit, problem, render=render, close=close, more_body=more_body
        )

    async def _tell(self, problem: Problem) -> None:
        self._is_shut = True
        self.is_plain = False
        if self._is_refused:
            return  # It has its answer.
        # The client may be gone by now.
        with suppress(OSError):
            if not self.has_begun:
                await self.reply(problem)
            elif self.is_endless and self._may_part() and isinstance(self.reason, StoppedError):
                await self.emit(
                    {"type": "http.response.body", "body": farewell(), "more_body": False}
                )

    # The request

    @property
    def has_cut_off(self) -> bool:
        """Whether the application got a disconnect in place of what its client sends."""
        return self._is_refused or self._is_gone

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
            if not self.is_plain and self._paused_at is not None:
                is_evidence = self.shared.clock() < self._paused_at + _SLOW
                self._paused_at = None
                self.come_back(is_evidence=is_evidence)

    def _give_place(self, now: float) -> None:
        # With the body complete, it is the client's leaving for which an application may look while
        # it works.
        if self.is_held and not (self._has_body or self._away):
            self._paused_at = now
            self.step_aside()

    async def _take(self) -> Message:  # noqa: C901 - one line of rules
        if not self.is_plain and self.has_cut_off:
            return {"type": "http.disconnect"}
        running = self.shared.requests
        if self._has_body:
            message = await self._in()
        else:
            is_unswept = self.shared.is_bounded and (running is None or running.loop is None)
            try:
                message = await watched(self._in_time() if is_unswept else self._in(), self._wait)
            except BaseException as error:
                if not self._was_cut(error):
                    raise
                message = await self._refuse(BODY_TOO_SLOW)
            else:
                if self._is_waiting:
                    self._was_cut(None)
        self._has_body |= not message.get("more_body", False)
        kind = message["type"]
        if kind == "http.request":
            received = self.request_bytes = self.request_bytes + len(message.get("body", b""))
            if received > self.rules.limits.max_body_bytes:
                return await self._refuse(BODY_TOO_LARGE)
        elif kind == "http.disconnect" and not self._is_refused:
            self.leave()
        return message

    def _wait(self) -> None:
        self._is_waiting = True
        now = self._since = self.shared.clock()
        if self._is_read:
            self._give_place(now)
        running = self.shared.requests
        loop = running.loop if running is not None and self.shared.is_bounded else None
        if loop is not None and self._may_bring_more():
            self.reading = ClientWait(loop)
            self.reading.begin(self._next_due(now))

    def _was_cut(self, error: BaseException | None) -> bool:
        """End the wait; return whether the sweep ended it."""
        if not self._is_waiting:
            return False
        self._is_waiting = False
        self._waited += self.shared.clock() - self._since
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
        self._shut()
        if self.has_begun:
            self.request.error_type = self.request.error_type or CLIENT_DISCONNECTED
        elif problem is BODY_TOO_LARGE and not self._has_body:
            await self.refuse_unread()
        else:
            await self.reply(problem, close=True)
        return {"type": "http.disconnect"}

    def _shut(self) -> None:
        self._is_refused = self._is_shut = True
        self.is_plain = False

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
        self._has_left_early = message["type"] == "http.disconnect"
        return self._has_left_early

    def _ending(self) -> Ending:
        if self._if_answered is not Ending.ANSWERED:
            return Ending.UNKNOWN
        return Ending.LEFT if self._has_left_early else Ending.LOST

    # The client

    def may_watch(self) -> bool:
        """Return whether to begin now.

        One that is cancelled when its client leaves is read ahead of in any case.
        """
        if self.rules.cancels:
            return True
        return not self._is_read and (
            self._has_body or not may_have_body(self.headers, self.http_version)
        )

    async def watch(self) -> None:
        """Receive ahead of the application, but no more of a body than one piece.

        Cancel it if it is alone.
        """
        queue = self._queue = [] if self._queue is None else self._queue
        self.is_plain = False
        with anyio.CancelScope() as self._watcher:
            while not (self._has_ended or self._is_ending):
                if self._is_read and not self.rules.cancels:
                    # The application sees for itself; the sweep looks whether it goes on to.
                    self.is_watched = True
                    return
                if self._is_read or any(message.get("more_body", False) for message in queue):
                    # The application sees for itself, or has not yet taken what there is.
                    await anyio.sleep(_POLL)
                elif await self._next_message(queue) == "http.disconnect":
                    if self.rules.cancels and not self._is_ending:
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
