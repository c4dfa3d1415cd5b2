"""The response of one request: what is sent, and what has become of it.

How a response ends that is cut by a deadline or a drain:

1. Nothing was sent: a problem is sent in its place.
2. It has begun: it stays unfinished, without a last body, so that the server breaks the connection
   (HTTP/1) or resets the stream (HTTP/2), and the client knows. Nothing is added: it would be part
   of the application's protocol.
3. It is a stream of events whose client resumes by itself, and a drain cuts it between two events:
   it gets a `retry:`, and ends in order.
4. Its client has left: nothing is sent, and it is counted as left, whatever comes later.

A stream that is one too many is refused when its head comes, since only that says that it is one.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final, NoReturn

import anyio
from anyio.lowlevel import checkpoint

from ..deadlines.requests import NO_WAIT, ClientWait
from ..errors import RejectedError, StoppedError
from ..telemetry.exchange import CLIENT_DISCONNECTED, ErrorTypes
from ._answering import Headers
from ._concurrency import watched
from ._cors import GRANTS
from ._pace import Paced
from ._problem import Problem, begun, problem_of, send_problem
from ._sse import MEDIA_TYPE, farewell, retry
from ._state import (
    BEGUN,
    COMPLETE,
    GONE,
    HANDED_ON,
    INCOMING,
    OPEN,
    RESPONSE,
    SHUT,
    STALLED,
    STREAMING,
    TAKEN,
    UNSENT,
    Event,
)
from ._types import Message

_INTERNAL = 500
_NEVER: Final = math.inf  # An attribute of a module costs each request more than a global.
# What carries the response's bytes, or a file that the server sends in their place.
_CONTENT_TYPE: Final = len(b"content-type")
_BODY: Final = frozenset(
    {"http.response.body", "http.response.pathsend", "http.response.zerocopysend"}
)
# Each piece of a longer one must get away within the write timeout; so it decides what rate a
# reader needs.
_PIECE: Final = 65_536
_DOES_NOT_READ: Final = "the client does not read its response"
_HEAD: Final = RESPONSE[Event.HEAD]
_LAST: Final = RESPONSE[Event.LAST]
_ACCEPT: Final = RESPONSE[Event.ACCEPT]


class Responding(Paced):
    """A request under way, as far as it is answered."""

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
        shared = self.shared
        # Any iterable is legal, and may be read only once.
        answered = self._response_headers = [*message.get("headers", ())]
        owned = shared.owned
        is_plain = shared.process is None or not shared.process.is_draining
        try:
            for name, value in answered:
                # A name has another length, as a rule.
                if len(name) == _CONTENT_TYPE and value.startswith(MEDIA_TYPE) and not is_ours:
                    self._note_events(status, answered)
                if name.lower() in owned:
                    is_plain = False
        except RejectedError as error:
            await self._refuse_stream(error, message)
            return
        self.response = _HEAD[self.response]
        headers = (
            [*answered, *self.fields, *shared.added]
            if is_plain
            else self._dress_with_care(answered)
        )
        headers.append((b"x-request-id", self.request.request_id.encode("ascii")))
        try:
            # A new message with a new list: an application may send the same objects again and
            # again.
            await self._out({**message, "headers": headers})
        except OSError:
            self.leave()
            raise
        self.status = status

    async def _refuse_stream(self, error: RejectedError, head: Message) -> None:
        """Answer in place of an application that has begun, and cancel that."""
        self.response = RESPONSE[Event.TAKE][self.response]
        problem = problem_of(error)
        self.request.error_type = self.request.error_type or problem.error_type
        with suppress(OSError):
            if self._is_resumed:
                # With the application's own head, so that a page of another origin may read it.
                await self.emit({**head, "headers": self._response_headers})
                await self.emit(
                    {"type": "http.response.body", "body": retry(error.retry_after or 0.0)}
                )
            else:
                await self.reply(problem if self.method == "GET" else begun(problem))
        await self.stop()

    def _dress_with_care(self, answered: Headers) -> list[tuple[bytes, bytes]]:
        """Do the same for a response that has such a header, or that is its connection's last."""
        shared = self.shared
        names = {name.lower() for name, _ in answered}
        unwanted = {b"x-request-id"}
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

    async def _send_long(self, message: Message, size: int, *, is_last: bool) -> None:
        body: bytes = message["body"]
        for begin in range(0, size, _PIECE):
            piece = body[begin : begin + _PIECE]
            ends = is_last and begin + _PIECE >= size
            await self.send({**message, "body": piece, "more_body": not ends})

    async def _send_in_time(self, message: Message) -> None:
        """Send what must get away within the write timeout; the sweep ends the wait."""
        # Of two tasks that send at once, the second has a timer of its own.
        if self.shared.sweep.loop is None or self.writing.task is not None:
            with anyio.move_on_after(self.rules.limits.write_timeout):
                await self._out(message)
                return
            self.stall()
        try:
            await watched(self._out(message), self._await_reader)
        except BaseException as error:
            if self.writing.end(error):
                self.stall()
            raise
        wait = self.writing
        if wait.task is not None:
            wait.end()

    def _await_reader(self) -> None:
        """Begin to wait: a server that has room takes a piece at once."""
        if self.writing is NO_WAIT:
            self.writing = ClientWait(self.shared.sweep.loop)
        self.writing.begin(self.shared.clock() + self.rules.limits.write_timeout)
        self.rouse()

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
