"""One request of WSGI, between the server's thread and the loop of the parts.

The parts around the application are those of `postfacta_core.harden`, and not a second version of
them: they run on an event loop, in a thread of its own, and decide there. The application runs in
the server's thread, in the context of its request. The two speak by turns:

    the server's thread              the loop
    a request has come          ->   identity, rates, admission, the deadline begins
    the application runs        <-   CALL
    its first piece             ->   headers, counts
    the piece goes out          <-   NEXT, and so on with each piece
    the response is complete    <-   END

1. The application never runs on the loop, and no step on the loop waits for a client.
2. A thread cannot be cancelled. At its deadline a request is recorded and its answer is ready; the
   client gets it once the thread is back. What the thread begins after that is refused.
3. What was cut never looks whole: the server gets an error in the middle of the response, and
   closes the connection without an end.
4. Each process has a loop of its own, which begins with its first request: a server may load the
   application before it forks.
"""

from __future__ import annotations

import asyncio
import errno
import io
import math
import queue
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import Context, copy_context
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any, Final, NoReturn, Protocol
from wsgiref.util import FileWrapper

from postfacta_core.asgi import Message, Receive, Scope, Send
from postfacta_core.asgi.stack import Hardened
from postfacta_core.context import RequestContext, current_request

Environ = dict[str, Any]
"""What a server says of a request, by PEP 3333."""

_PIECE: Final = 65_536  # Bytes of a body that are read at once: what a socket's buffer holds.
# RFC 9110, section 7.6.1: they are the server's business, and PEP 3333 forbids them.
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
EXCHANGE: Final = "postfacta.exchange"
_HAS_LEFT: Final = "the client has left"
_IS_OVER: Final = "no more of the request is read: it was refused, is late, or its client has left"


class StartResponse(Protocol):
    """Begins the response, by PEP 3333."""

    def __call__(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]: ...


WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]
"""An application, by PEP 3333."""


class _Turn(Enum):
    """To the thread, without more to say."""

    READ = "read a piece of the request's body from the server"
    NEXT = "let out what was sent, then take the application's next piece"


@dataclass(frozen=True, slots=True)
class _Call:
    """To the thread: run the application, in the context of its request."""

    context: Context


@dataclass(frozen=True, slots=True)
class _Piece:
    """A piece of the body of a request, or of a response."""

    body: bytes
    is_last: bool


@dataclass(frozen=True, slots=True)
class _Received:
    """To the thread, whose application reads: a piece, or None if no more comes of it."""

    piece: _Piece | None


@dataclass(frozen=True, slots=True)
class _End:
    """To the thread: the request is over. The error is one that nothing answered."""

    error: BaseException | None


class _Word(Enum):
    """To the loop, without more to say."""

    BODY = "the application reads its body"
    LEFT = "the client has left"


@dataclass(frozen=True, slots=True)
class _Raised:
    """To the loop: the application raised."""

    error: Exception


_Reply = _Word | _Piece | _Raised
_Step = _Turn | _Call | _Received | _End


class Inside:
    """The application as the parts see it: an ASGI one, whose work is done by a thread."""

    def __init__(self, app: WsgiApp) -> None:
        self.app = app  # By this name, layers are looked through for a framework.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # There is no lifespan, and no WebSocket.
        exchange: WsgiExchange = scope[EXCHANGE]
        exchange.request = current_request()
        step: _Step | None = _Call(copy_context())
        while step is not None:
            word = await exchange.ask(step)
            step = await (
                _hand_in(receive) if word is _Word.BODY else exchange.hand_out(word, send)
            )


async def _hand_in(receive: Receive) -> _Received:
    """Receive a piece of the body for the application."""
    message = await receive()
    if message["type"] == "http.disconnect":
        return _Received(None)
    return _Received(_Piece(message.get("body", b""), is_last=not message.get("more_body", False)))


class WsgiExchange:
    """One request: the loop's side of it, and what the thread replies.

    Attributes:
        environ: What the server said of the request.
        request: Its context, once the application is to run.
        has_begun: Whether the application's response has.
        status: The application's status line.
        headers: The application's.
        steps: What the thread is to do, each with the messages that go out before.
    """

    def __init__(self, environ: Environ, loop: asyncio.AbstractEventLoop) -> None:
        self.environ = environ
        self.request: RequestContext | None = None
        self.has_begun = False
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.steps: queue.SimpleQueue[tuple[_Step, list[Message]]] = queue.SimpleQueue()
        self._loop = loop
        self._messages: list[Message] = []
        self._word: asyncio.Future[_Reply] | None = None
        self._is_read = False
        self._gone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # In the thread.

    def begin(self, hardened: Hardened) -> None:
        """Serve the request on the loop, in a copy of the thread's context."""
        self._loop.call_soon_threadsafe(self._begin, hardened)

    def reply(self, word: _Reply) -> None:
        """Answer the last step, unless the request has ended meanwhile."""
        self._loop.call_soon_threadsafe(_resolve, self._word, word)

    def leave(self) -> None:
        """Report that the client has left, at whatever step it is."""
        self._loop.call_soon_threadsafe(self._leave)

    # On the loop.

    def _begin(self, hardened: Hardened) -> None:
        # It is kept here: a loop refers to its tasks only weakly.
        self._task = self._loop.create_task(self._serve(hardened))

    async def _serve(self, hardened: Hardened) -> None:
        error: BaseException | None = None
        try:
            await hardened(_scope_of(self.environ, self), self._receive, self._send)
        except BaseException as failure:  # noqa: BLE001 - the thread raises it to its server
            error = failure
        if self.request is not None and self._word is not None and self._word.cancelled():
            # The thread still works: what it begins from now on has no time.
            self.request.deadline = self.request.started
        self.steps.put((_End(error), self._messages))

    async def ask(self, step: _Step) -> _Reply:
        """Give the thread a step, and what goes out before it; return its answer."""
        messages = self._messages
        self._messages = []
        self._word = self._loop.create_future()
        self.steps.put((step, messages))
        return await self._word

    async def hand_out(self, word: _Reply, send: Send) -> _Turn | None:
        """Send what the application gave; return what comes next, None after its last piece."""
        if isinstance(word, _Raised):
            raise word.error
        if not isinstance(word, _Piece):
            # It raises, as ASGI says that the client has left.
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            raise ConnectionAbortedError(_HAS_LEFT)
        if not self.has_begun:
            self.has_begun = True
            await send(self._first_message())
        await send({"type": "http.response.body", "body": word.body, "more_body": not word.is_last})
        return None if word.is_last else _Turn.NEXT

    def _first_message(self) -> Message:
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in self.headers
            if name.lower() not in _HOP_BY_HOP
        ]
        return {
            "type": "http.response.start",
            "status": int(self.status[:3]),
            "headers": headers,
        }

    def _leave(self) -> None:
        self._gone.set()
        _resolve(self._word, _Word.LEFT)

    async def _send(self, message: Message) -> None:
        if self._gone.is_set():
            raise ConnectionAbortedError(_HAS_LEFT)
        self._messages.append(message)

    async def _receive(self) -> Message:
        if self._is_read:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        piece = _Piece(b"", is_last=True)
        if _has_body(self.environ):
            word = await self.ask(_Turn.READ)
            if not isinstance(word, _Piece):
                self._is_read = True
                self._gone.set()
                return {"type": "http.disconnect"}
            piece = word
        self._is_read = piece.is_last
        return {"type": "http.request", "body": piece.body, "more_body": not piece.is_last}


def _resolve(word: asyncio.Future[_Reply] | None, value: _Reply) -> None:
    if word is not None and not word.done():
        word.set_result(value)


class Service:
    """One request in the server's thread: does the loop's steps, and gives the server its response.

    Args:
        app: The application.
        exchange: The other side.
        hands_id_on: Whether the application finds the request's id among its headers.
    """

    def __init__(self, app: WsgiApp, exchange: WsgiExchange, *, hands_id_on: bool) -> None:
        environ = exchange.environ
        self._app = app
        self._exchange = exchange
        self._hands_id_on = hands_id_on
        self._is_head = environ["REQUEST_METHOD"] == "HEAD"
        self._input = environ["wsgi.input"]
        self._unread = _length_of(environ)
        self._context = Context()
        self._pieces: Iterator[bytes] = iter(())
        self._close: Callable[[], object] | None = None
        self._is_single = False  # One piece is all.
        self._left_to_send = math.inf  # By the application's Content-Length.
        self._written: list[bytes] = []
        self._step: _Step | None = None
        self._outgoing: deque[Message] = deque()
        self._is_whole = False

    def respond(self, start_response: StartResponse) -> Iterable[bytes]:
        """Do what there is to do until the response begins, and return its body."""
        try:
            while not (self._outgoing or isinstance(self._step, _End)):
                self._advance()
            if not self._outgoing:
                self._raise()
            self._start_response(self._outgoing.popleft(), start_response)
            # That of most: to know that it is all lets the server send head and body at once.
            if isinstance(self._step, _End) and _is_last(self._outgoing):
                self._is_whole = True
                return _Whole(self._bodies(), self.close)
        except BaseException:
            self.close()
            raise
        return self._stream()

    def _stream(self) -> Iterator[bytes]:
        try:
            while not self._is_whole:
                while self._outgoing:
                    self._is_whole = _is_last(self._outgoing)
                    yield from self._bodies()
                if not self._is_whole and isinstance(self._step, _End):
                    self._raise()
                if not self._is_whole:
                    self._advance()
        finally:
            self.close()

    def close(self) -> None:
        """End the application's response, and the request if its response was cut."""
        if not (self._is_whole or isinstance(self._step, _End)):
            self._exchange.leave()
        try:
            if self._is_whole:
                # What stands behind the last piece, by its Content-Length.
                self._context.run(next, self._pieces, None)
        finally:
            if self._close is not None:
                self._context.run(self._close)

    def _bodies(self) -> list[bytes]:
        bodies = [message.get("body", b"") for message in self._outgoing]
        self._outgoing.clear()
        return [] if self._is_head else [body for body in bodies if body]

    def _raise(self) -> NoReturn:
        """Raise, for no more comes: nothing ended the response, or not even began it."""
        error = self._step.error if isinstance(self._step, _End) else None
        if isinstance(error, Exception) and not (
            self._exchange.has_begun or isinstance(error, OSError)
        ):
            raise error
        # As if the client had left, at which servers close the connection, and write no traceback.
        raise BrokenPipeError(errno.EPIPE, "the response was cut")

    def _start_response(self, message: Message, start_response: StartResponse) -> None:
        status: int = message["status"]
        line = self._exchange.status
        if line[:3] != str(status):
            line = f"{status} {HTTPStatus(status).phrase}"
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in message.get("headers", ())
            if name.decode("latin-1").lower() not in _HOP_BY_HOP
        ]
        start_response(line, headers)

    # The steps.

    def _advance(self) -> None:
        """Do the last step, and wait for the next."""
        match self._step:
            case _Call(context):
                self._exchange.reply(self._run(context))
            case _Turn.READ:
                self._exchange.reply(self._read())
            case _Turn.NEXT:
                self._exchange.reply(self._next_piece())
            case _:
                pass
        if not isinstance(self._step, _End):  # It may have come while the application read.
            self._take_step()

    def _take_step(self) -> None:
        self._step, messages = self._exchange.steps.get()
        self._outgoing += messages

    def _run(self, context: Context) -> _Reply:
        self._context = context
        environ = self._exchange.environ
        environ["wsgi.input"] = io.BufferedReader(_Input(self), _PIECE)
        environ["wsgi.input_terminated"] = True
        environ["wsgi.file_wrapper"] = _FileWrapper
        if self._hands_id_on and self._exchange.request is not None:
            environ["HTTP_X_REQUEST_ID"] = self._exchange.request.request_id
        return self._guarded(self._begin_app)

    def _begin_app(self) -> _Reply:
        body = self._app(self._exchange.environ, self._start)
        self._close = getattr(body, "close", None)
        self._is_single = isinstance(body, list | tuple) and len(body) == 1
        self._pieces = iter(body)
        return self._take_piece()

    def _next_piece(self) -> _Reply:
        return self._guarded(self._take_piece)

    def _guarded(self, work: Callable[[], _Reply]) -> _Reply:
        try:
            return self._context.run(work)
        except Exception as error:  # noqa: BLE001 - the parts answer it
            return _Raised(error)

    def _take_piece(self) -> _Reply:
        body = b"".join(self._written) or next(filter(None, self._pieces), None)
        if not self._exchange.status:
            raise RuntimeError("the application did not call start_response")
        if body is None:
            return _Piece(b"", is_last=True)
        self._left_to_send -= len(body)
        is_last = self._left_to_send <= 0 or (self._is_single and not self._written)
        self._written.clear()
        return _Piece(body, is_last)

    def _start(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        if exc_info is not None and self._exchange.has_begun:
            raise exc_info[1].with_traceback(exc_info[2])
        if self._exchange.status and exc_info is None:
            raise RuntimeError("the application called start_response twice")
        self._exchange.status = status
        self._exchange.headers = headers
        for name, value in headers:
            if name.lower() == "content-length" and value.isdigit():
                self._left_to_send = int(value)
        return self._written.append

    # The request's body.

    def _read(self) -> _Reply:
        try:
            body = self._input.read(min(self._unread, _PIECE))
        except OSError:  # Of a client that has left, or is too slow for the server.
            return _Word.LEFT
        self._unread -= len(body)
        if body or self._unread == math.inf:
            return _Piece(body, is_last=not body or self._unread <= 0)
        return _Word.LEFT  # Less came than was announced.

    def read_through_parts(self) -> _Piece:
        """Read a piece of the body, as the application does."""
        if isinstance(self._step, _End):
            raise ConnectionAbortedError(_IS_OVER)
        self._exchange.reply(_Word.BODY)
        self._take_step()
        while self._step is _Turn.READ:
            self._exchange.reply(self._read())
            self._take_step()
        if not isinstance(self._step, _Received) or self._step.piece is None:
            raise ConnectionAbortedError(_IS_OVER)
        return self._step.piece


class _Whole(list[bytes]):
    """A whole body, for a server that looks how many pieces there are."""

    def __init__(self, bodies: Iterable[bytes], close: Callable[[], None]) -> None:
        super().__init__(bodies)
        self.close = close


class _Input(io.RawIOBase):
    """The request's body as the application reads it: through the parts, which bound it."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service
        self._rest = memoryview(b"")
        self._is_over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not (self._rest or self._is_over):
            piece = self._service.read_through_parts()
            self._rest = memoryview(piece.body)
            self._is_over = piece.is_last
        size = min(len(self._rest), len(buffer))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class _FileWrapper(FileWrapper):
    """A file in pieces that are worth their way over the loop."""

    def __init__(self, filelike: Any, blksize: int = _PIECE) -> None:
        super().__init__(filelike, max(blksize, _PIECE))


def _is_last(messages: Collection[Message]) -> bool:
    return any(
        message["type"] == "http.response.body" and not message.get("more_body", False)
        for message in messages
    )


def _length_of(environ: Environ) -> float:
    """Return how many bytes of a body come; infinite if the server says where they end."""
    length = environ.get("CONTENT_LENGTH") or "0"
    if environ.get("wsgi.input_terminated") and "HTTP_TRANSFER_ENCODING" in environ:
        return math.inf
    return int(length) if length.isdigit() else 0


def _has_body(environ: Environ) -> bool:
    return _length_of(environ) > 0


def _scope_of(environ: Environ, exchange: WsgiExchange) -> Scope:
    """Translate what a server says of a request, by PEP 3333, into the scope of ASGI."""
    root_path = _text(environ.get("SCRIPT_NAME", ""))
    headers = [
        (name[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    headers += [
        (name.encode(), environ[key].encode("latin-1"))
        for key, name in (("CONTENT_TYPE", "content-type"), ("CONTENT_LENGTH", "content-length"))
        if environ.get(key)
    ]
    address = environ.get("REMOTE_ADDR")
    port = environ.get("REMOTE_PORT") or "0"
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": environ.get("SERVER_PROTOCOL", "HTTP/1.1").removeprefix("HTTP/"),
        "method": environ["REQUEST_METHOD"],
        "scheme": environ["wsgi.url_scheme"],
        "path": root_path + _text(environ.get("PATH_INFO", "")),
        "root_path": root_path,
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1"),
        "headers": headers,
        "client": (address, int(port) if port.isdigit() else 0) if address else None,
        "server": (environ["SERVER_NAME"], int(environ["SERVER_PORT"] or 0)),
        EXCHANGE: exchange,
    }


def _text(value: str) -> str:
    """Read bytes that PEP 3333 has as latin-1."""
    return value.encode("latin-1").decode("utf-8", "replace")
