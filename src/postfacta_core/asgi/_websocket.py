"""One WebSocket: the state of its handshake and its end, one `receive`, one `send`."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final, Literal

import anyio
from anyio.lowlevel import checkpoint

from ..context import RequestContext
from ..errors import RejectedError
from ..telemetry.exchange import ErrorTypes, SocketExchange
from ._answering import Answering, Shared
from ._problem import Problem, problem_of
from ._rules import Rules
from ._types import Message, Receive, Scope, Send

# Close codes of IANA's WebSocket registry. Before the handshake is answered a server makes a 403 of
# each.
_RESTART = 1012
_VIOLATION = 1008
_TRY_AGAIN_LATER = 1013
_CODES: Final = {"draining": _RESTART, "deadline_exceeded": _VIOLATION}
_NORMAL = 1000
_ABNORMAL = 1006
_SWITCHING_PROTOCOLS: Final = 101
_TOO_BIG: Final = 1009


def _size(message: Message) -> int:
    """Return the bytes of a message on the wire."""
    text = message.get("text")
    if text is None:
        return len(message.get("bytes") or b"")
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


class WebSocketExchange(Answering, SocketExchange):
    """One WebSocket.

    Its limit is for its handshake: once it is accepted, it has none but its handler's.
    """

    is_socket: Literal[True] = True
    has_cut_off: bool = False
    _is_ending: bool = False

    def __init__(  # noqa: PLR0917 - as above
        self,
        shared: Shared,
        rules: Rules,
        request: RequestContext,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        SocketExchange.__init__(self, request, "GET", scope.get("path", ""))
        self.shared = shared
        self.rules = rules
        self.is_endless = rules.farewell is not False or rules.drain_timeout <= 0
        self.scope = scope
        self._in = receive
        self._out = send
        self.headers = scope["headers"]
        self.scheme = scope.get("scheme", "ws")
        self.http_version = scope.get("http_version", "1.1")
        if client := scope.get("client"):
            self.client = client[0]

    @property
    def stage(self) -> str:  # type: ignore[override]
        return "handler" if self.is_open else "handshake"

    def may_answer(self) -> bool:
        return not (self._is_ending or self.has_left)

    def land(self) -> None:
        """End the handshake."""
        self.is_held = False
        self.shedding.handshakes.leave(self.client)

    async def receive(self) -> Message:
        message = await self._in()
        if message["type"] == "websocket.receive":
            most = self.rules.limits.max_message_bytes
            if _size(message) > most:
                return await self._refuse(f"a message has at most {most} bytes")
        elif message["type"] == "websocket.disconnect" and not self.is_complete:
            self.close_code = message.get("code") or _ABNORMAL
            self.leave()
        return message

    async def _refuse(self, reason: str) -> Message:
        """Close it for a message that is too big; return what the application sees of that."""
        if self._answered is None:
            self._answered = anyio.Event()
            try:
                await self.emit({"type": "websocket.close", "code": _TOO_BIG, "reason": reason})
            finally:
                self._answered.set()
        return {"type": "websocket.disconnect", "code": _TOO_BIG, "reason": reason}

    async def send(self, message: Message) -> None:
        """Send what the application sends, unless the socket was closed without it."""
        kind = message["type"]
        if kind == "websocket.accept" and self.is_held:
            self.land()
        if self._answered is not None:
            await checkpoint()
            return
        if kind == "websocket.accept":
            try:
                self.open()
            except RejectedError as error:
                await self._refuse_open(problem_of(error))
                return
            # A limit that the handler gave itself stays.
            if self.shared.requests is not None and self.request.limit == min(
                self.rules.timeout, self.rules.handshake
            ):
                self.request.limit = math.inf
                self.limit(math.inf)
        elif kind in {"websocket.close", "websocket.http.response.start"}:
            self._is_ending = True
        await self.emit(message)

    async def _refuse_open(self, problem: Problem) -> None:
        """Close it in place of an application that accepts it, and cancel that."""
        self._answered = anyio.Event()
        self.request.error_type = self.request.error_type or problem.error_type
        try:
            with suppress(OSError):
                await self.reply(problem)
        finally:
            self._answered.set()
        await self.stop()

    async def emit(self, message: Message) -> None:
        try:
            await self._out(message)
        except OSError:
            self.leave()
            raise
        kind = message["type"]
        if kind == "websocket.accept":
            self.status = _SWITCHING_PROTOCOLS
            self.is_open = True
            self.shared.tell(self.shared.opened, self)
        elif kind == "websocket.close" and not self.has_left:
            self.close_code = message.get("code", _NORMAL)
            self.is_complete = True
        elif kind == "websocket.http.response.start":
            self.status = message.get("status", 0)

    def settle(
        self, error: Exception | None, types: ErrorTypes, *, was_cancelled: bool = False
    ) -> None:
        self.seconds = self.request.age()
        super().settle(error, types, was_cancelled=was_cancelled)

    async def reply(self, problem: Problem) -> None:
        code = _CODES.get(problem.error_type, _TRY_AGAIN_LATER)
        await self.emit({"type": "websocket.close", "code": code, "reason": problem.title})

    async def _tell(self, problem: Problem) -> None:
        with suppress(OSError, RuntimeError):
            await self.reply(problem)
