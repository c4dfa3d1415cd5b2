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
from ..deadlines.requests import NO_SILENCE, NO_WAIT, ClientWait
from ..errors import DeadlineExceededError, ResilienceError, StoppedError
from ..limits._overload import Ending
from ..telemetry.exchange import CLIENT_DISCONNECTED, STREAM_IDLE, ErrorTypes, Exchange
from ._answering import Answering, Headers, Shared
from ._concurrency import watched
from ._cors import GRANTS
from ._problem import BODY_TOO_LARGE, BODY_TOO_SLOW, Problem, send_problem
from ._rules import Rules
from ._sse import MEDIA_TYPE, EventStream, Pace, are_events, farewell, is_resumed
from ._state import (
    BEGUN,
    COMPLETE,
    GONE,
    HANDED_ON,
    INCOMING,
    NONE,
    OPEN,
    REFUSED,
    RESPONSE,
    SENDING,
    SHUT,
    STALLED,
    STREAMING,
    TAKEN,
    UNSENT,
    Event,
)
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
_HEAD: Final = RESPONSE[Event.HEAD]
_LAST: Final = RESPONSE[Event.LAST]
_ACCEPT: Final = RESPONSE[Event.ACCEPT]
_READ: Final = INCOMING[Event.READ]
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
    _is_resumed: bool = False  # By its client, if a drain ends it.
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
    def is_complete(self) -> bool:  # type: ignore[override]
        return self.response in COMPLETE

    @property
    def has_left(self) -> bool:  # type: ignore[override]
        return self.incoming is GONE

    @property
    def left_unanswered(self) -> bool:  # type: ignore[override]
        return self.has_left and (self.response in UNSENT or self.status == 0)

    @property
    def is_endless(self) -> bool:  # type: ignore[override]
        return self._is_resumed and self.response not in HANDED_ON

    @property
    def has_cut_off(self) -> bool:
        """Whether the application got a disconnect in place of what its client sends."""
        return self.incoming is REFUSED

    def may_answer(self) -> bool:
        return self.response in OPEN

    def leave(self) -> None:
        # After the last byte that is how every connection ends.
        if self.response not in COMPLETE:
            self.response = RESPONSE[Event.LEAVE][self.response]
            self.incoming = INCOMING[Event.LEAVE][self.incoming]

    def settle(
        self, error: Exception | None, types: ErrorTypes, *, was_cancelled: bool = False
    ) -> None:
        if self.response not in COMPLETE:
            self.end_response(is_cut=True)
        super().settle(error, types, was_cancelled=was_cancelled)

    def end_response(self, *, is_cut: bool = False) -> None:
        """Record that the server took the last byte, or the end without one."""
        before = self.response
        if not is_cut:
            self.response = _ACCEPT[before]
            if self.response is before:
                return  # It has ended before, or its client has left.
        self.seconds = self.request.clock() - self.request.started
        shared = self.shared
        for record in shared.answered:
            try:
                record(self)
            except Exception as error:  # noqa: BLE001 - a recorder is foreign code
                shared.blame(record, error)

    # The response

    async def send(self, message: Message) -> None:
        """Send what the application sends, unless its caller was answered without it."""
        kind = message["type"]
        if kind == "http.response.start":
            await self._send_head(message)
            return
        if self.is_held and kind == "http.response.body":
            self.land()
        if self.response in SHUT:
            await self._drop()
            return
        if kind not in _BODY:
            await self.emit(message)
            return
        is_last = not message.get("more_body")
        if is_last and self.is_plain:
            self.response = _LAST[self.response]
            self.request.deadline = _NEVER
        elif is_last or self.response is not STREAMING:
            self._pass_body(message, is_last=is_last)
        size = len(message.get("body", b""))
        deliver = self._out
        if self.response_bytes + size > self.shared.room:
            if size > _PIECE:
                await self._send_long(message, size, is_last=is_last)
                return
            deliver = self._send_in_time
        try:
            await deliver(message)
        except OSError:  # So ASGI says that the client is gone.
            self.leave()
            raise
        self.response_bytes += size
        if is_last:
            self.end_response()
        elif self._events is not None and self._events.has_ended:
            await self._wait_for_end()

    async def emit(self, message: Message) -> None:
        """Send what is ours, as an answer is, or what is no part of the body."""
        if message["type"] == "http.response.start":
            await self._send_head(message, is_ours=True)
            return
        is_last = message["type"] in _BODY and not message.get("more_body")
        if is_last:
            self.response = _LAST[self.response]
        try:
            await self._out(message)
        except OSError:
            self.leave()
            raise
        self.response_bytes += len(message.get("body", b""))
        if is_last:
            self.end_response()

    async def _drop(self) -> None:
        if self.response is STALLED:
            raise ConnectionAbortedError(_DOES_NOT_READ)
        # A handler that keeps sending is cancelled here, and does not block the loop.
        await checkpoint()

    async def _send_head(self, message: Message, *, is_ours: bool = False) -> None:
        status = message["status"]
        if not is_ours:
            self.is_answered = status < _INTERNAL
            if self.response in SHUT:
                await self._drop()
                return
        self.response = _HEAD[self.response]
        shared = self.shared
        # Any iterable is legal, and may be read only once.
        answered = self._response_headers = [*message.get("headers", ())]
        owned = shared.owned
        is_plain = shared.process is None or not shared.process.is_draining
        for name, value in answered:
            # A name has another length, as a rule.
            if len(name) == _CONTENT_TYPE and value.startswith(MEDIA_TYPE):
                self._note_events(status, answered)
            if name.lower() in owned:
                is_plain = False
        headers = (
            [*answered, *self.fields, *shared.added]
            if is_plain
            else self._dress_with_care(answered)
        )
        if shared.identifies:
            headers.append((b"x-request-id", self.request.request_id.encode("ascii")))
        try:
            # A new message with a new list: an application may send the same objects again and
            # again.
            await self._out({**message, "headers": headers})
        except OSError:
            self.leave()
            raise
        self.status = status

    def _note_events(self, status: int, headers: Headers) -> None:
        """Note a stream of events that its client resumes by itself, or that has a heartbeat."""
        if status != _OK or not are_events(headers):
            return
        has_farewell = self.rules.farewell
        if has_farewell is None:
            has_farewell = self.method == "GET" and is_resumed(self.headers)
        self._is_resumed = has_farewell
        has_heartbeat = self.rules.heartbeat < _NEVER and self.method != "HEAD"
        if has_farewell or has_heartbeat:
            self._events = EventStream(self._out)
            self._out = self._events.send
        if has_heartbeat:
            self._keep_pace()

    def _keep_pace(self) -> None:
        rules = self.rules
        self.silence = Pace(
            self._out,
            self.shared.clock,
            events=self._events,
            has_comments=are_events(self._response_headers),
            limit=rules.stream_idle,
            heartbeat=rules.heartbeat if self._events is not None else _NEVER,
        )
        self._out = self.silence.send
        self.rouse()

    def judge_silence(self, now: float) -> ResilienceError | None:
        if not isinstance(self.silence, Pace) or not self.silence.is_over(now):
            return None
        self.request.error_type = self.request.error_type or STREAM_IDLE
        return DeadlineExceededError("stream_idle")

    async def break_silence(self) -> None:
        if isinstance(self.silence, Pace) and self.response in OPEN:
            try:
                with anyio.move_on_after(self.rules.limits.write_timeout):
                    await self.silence.beat()
            except OSError:
                self.leave()

    def _may_part(self) -> bool:
        return self._is_resumed and self._events is not None and self._events.end()

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

    def _pass_body(self, message: Message, *, is_last: bool) -> None:
        has_limit = self.shared.requests is not None
        if is_last:
            self.response = _LAST[self.response]
            if self._watcher is not None:
                # Some servers report a disconnect as the last byte goes out.
                self._watcher.cancel()
            if has_limit:
                self.limit(math.inf)
            return
        if self.response is BEGUN:
            self.response = RESPONSE[Event.PIECE][BEGUN]
            # Behind Starlette's BaseHTTPMiddleware each response comes in pieces, the last one
            # empty: one whose first piece is all of it is no stream.
            headers = self._response_headers
            lengths = [value for name, value in headers if name.lower() == b"content-length"]
            if b"%d" % len(message.get("body", b"")) not in lengths:
                self._begin_stream(is_live=not lengths)
                if has_limit:
                    limit = self.request.limit = self.rules.stream_timeout
                    self.limit(min(limit, self.request.caller_timeout))

    def _begin_stream(self, *, is_live: bool) -> None:
        shared = self.shared
        request = self.request
        self.is_stream = True
        self.is_live = is_live
        self.first_byte = request.age()
        if self.rules.stream_idle < _NEVER and self.silence is NO_SILENCE:
            self._keep_pace()
        if shared.streaming:
            self.route = request.route or shared.template(self.scope, request, self.local_path)
            shared.tell(shared.streaming, self)

    async def _send_long(self, message: Message, size: int, *, is_last: bool) -> None:
        body: bytes = message["body"]
        for begin in range(0, size, _PIECE):
            piece = body[begin : begin + _PIECE]
            ends = is_last and begin + _PIECE >= size
            await self.send({**message, "body": piece, "more_body": not ends})

    async def _send_in_time(self, message: Message) -> None:
        """Send what must get away within the write timeout; the sweep ends the wait."""
        wait = self.writing
        loop = self.shared.sweep.loop
        # Of two tasks that send at once, the second has a timer of its own.
        if loop is None or wait.task is not None:
            with anyio.move_on_after(self.rules.limits.write_timeout):
                await self._out(message)
                return
            self.stall()
        if wait is NO_WAIT:
            wait = self.writing = ClientWait(loop)
        wait.begin(self.shared.clock() + self.rules.limits.write_timeout)
        if self.is_resting:
            self.rouse()
        try:
            await self._out(message)
        except BaseException as error:
            if wait.end(error):
                self.stall()
            raise
        if wait.is_cut:
            wait.end()
        wait.due = _NEVER
        wait.task = None

    def stall(self) -> NoReturn:
        self.response = RESPONSE[Event.STALL][self.response]
        self.incoming = INCOMING[Event.REFUSE][self.incoming]
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
            self.scope, self.emit, problem, render=render, close=close, more_body=more_body
        )

    async def _tell(self, problem: Problem) -> None:
        may_part = self.is_endless and self._may_part() and isinstance(self.reason, StoppedError)
        self.response = RESPONSE[Event.FAREWELL if may_part else Event.TAKE][self.response]
        # The client may be gone by now.
        with suppress(OSError):
            if may_part:
                await self.emit(
                    {"type": "http.response.body", "body": farewell(), "more_body": False}
                )
            elif self.response is TAKEN:
                await self.reply(problem)

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
