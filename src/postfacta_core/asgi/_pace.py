"""How fast a response goes on: the silences of a stream, its heartbeat, the event at which it ends.

1. Only what an application sends counts as life, and of an event stream no comment.
2. While the server takes a piece, it is not the application that is silent.
3. A heartbeat stands between two events, never in one.
"""

from __future__ import annotations

import math
import re
from typing import Final

import anyio

from ..clock import Clock
from ..deadlines.requests import NO_SILENCE, Silence
from ..errors import DeadlineExceededError, ResilienceError
from ..telemetry.exchange import STREAM_IDLE, Exchange
from ._answering import Answering, Headers
from ._sse import EventStream, are_events, is_resumed
from ._state import OPEN, Incoming
from ._types import Message, Send

_OK = 200
_POLL: Final = 0.1  # Seconds between two looks at a state that nothing announces.
# A comment alone; a client ignores it.
_HEARTBEAT: Final[Message] = {"type": "http.response.body", "body": b":\n\n", "more_body": True}
_has_data = re.compile(rb"^[^:\r\n]", re.MULTILINE).search


class Pace(Silence):
    """What an application sends on its way to a server, and for how long it has sent nothing.

    Args:
        send: The server's, or an event stream's.
        clock: That of the sweep.
        events: What it sends, if a heartbeat may come between two of them.
        has_comments: A piece of comments alone counts as nothing.
        limit: Seconds without a piece that counts, after which the stream is ended.
        heartbeat: Seconds without any piece, after which a comment is sent.
    """

    def __init__(
        self,
        send: Send,
        clock: Clock,
        *,
        events: EventStream | None,
        has_comments: bool,
        limit: float,
        heartbeat: float,
    ) -> None:
        self._send = send
        self._clock = clock
        self._events = events
        self._has_comments = has_comments
        self._limit = limit
        self._heartbeat = heartbeat
        self._ends = math.inf
        self._rest = b""  # The beginning of a line that is a comment.
        self._beat: anyio.Event | None = None
        self._is_sending = False
        self._has_ended = False
        self._wait(clock())

    async def send(self, message: Message) -> None:
        """Send a piece."""
        if self._beat is not None:
            await self._beat.wait()
        self._is_sending = True
        try:
            await self._send(message)
        finally:
            self._is_sending = False
        now = self._clock()
        if self._counts(message.get("body", b"")):
            self._ends = now + self._limit
        self._has_ended = message["type"] == "http.response.body" and not message.get("more_body")
        self._wait(now)

    def is_over(self, now: float) -> bool:
        """Return whether the application was silent for too long; else it is due later."""
        if now >= self._ends and not self._is_sending:
            self.due = math.inf
            return True
        self._wait(now)
        return False

    async def beat(self) -> None:
        """Send a comment, unless something is under way."""
        is_busy = self._is_sending or self._beat is not None or self._has_ended
        if is_busy or self._events is None or not self._events.is_between:
            return
        self._beat = anyio.Event()
        try:
            await self._send(_HEARTBEAT)
        finally:
            self._beat.set()
            self._beat = None

    def _wait(self, now: float) -> None:
        # While the server takes a piece, it is not the application that is silent.
        ends = self._ends if self._ends > now else now + self._limit
        self.due = math.inf if self._has_ended else min(ends, now + self._heartbeat)

    def _counts(self, body: bytes) -> bool:
        if not self._has_comments:
            return bool(body)
        text = self._rest + body
        line = re.split(rb"[\r\n]", text)[-1]
        self._rest = b":" if line.startswith(b":") else b""
        return _has_data(text.replace(b"\r", b"\n")) is not None


class Paced(Answering, Exchange):
    """A request under way whose response may be a stream."""

    incoming: Incoming
    _out: Send  # The server's, or what stands before it.
    _response_headers: Headers
    # What it answers with, if something of ours may come between two of them.
    _events: EventStream | None
    _is_resumed: bool = False  # By its client, if a drain ends it.

    def _note_events(self, status: int, headers: Headers) -> None:
        """Note a stream of events that its client resumes by itself, or that has a heartbeat.

        Raise why it is refused, if there are too many.
        """
        if status != _OK or self.method == "HEAD":
            return
        if not are_events(headers):
            self.open()
            return
        has_farewell = self.rules.farewell
        if has_farewell is None:
            has_farewell = self.method == "GET" and is_resumed(self.headers)
        self._is_resumed = has_farewell
        self.open()
        has_heartbeat = self.rules.heartbeat < math.inf
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
            heartbeat=rules.heartbeat if self._events is not None else math.inf,
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

    def _begin_stream(self, *, is_live: bool) -> None:
        shared = self.shared
        request = self.request
        self.is_stream = True
        self.is_live = is_live
        self.first_byte = request.age()
        if self.rules.stream_idle < math.inf and self.silence is NO_SILENCE:
            self._keep_pace()
        if shared.streaming:
            route = request.route or shared.template(self.scope, request, self.local_path)
            self.route = request.route = route
            shared.tell(shared.streaming, self)
