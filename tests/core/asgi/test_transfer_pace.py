"""A client that sends or reads too slowly is cut off, and an honest slow one is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest

from postfacta_core.asgi._kernel import Kernel
from postfacta_core.asgi._rules import Rules
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.context import RequestContext
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.deadlines.requests import RunningRequests
from postfacta_core.telemetry.exchange import Exchange, Recorder
from postfacta_core.testing import ManualClock
from tests.core.asgi.transfers import (
    ClientDisconnect,
    fastapi_app,
    length,
    reading_crash,
    starlette_app,
)
from tests.core.virtual import loop_clock
from tests.kit.alone import WithShedding, WithTransfer


class SlowClient:
    """Sends chunks with pauses in between, on a clock that the test moves.

    Real time passes only at the cut.
    """

    def __init__(self, clock: ManualClock, *chunks: tuple[float, bytes]) -> None:
        self._clock = clock
        self._chunks = list(chunks)
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if not self._chunks:
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()  # Here it may be cancelled, as at a socket.
        pause, chunk = self._chunks.pop(0)
        self._clock.advance(pause)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def call(self, app: ASGIApp, limits: TransferLimits, **more: object) -> RequestContext:
        headers = [(b"transfer-encoding", b"chunked")]
        scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, **more}
        with anyio.fail_after(20):
            await WithTransfer(app, limits, clock=self._clock)(scope, self.receive, self.send)
        request: RequestContext = scope["postfacta.request"]
        return request

    @property
    def unsent(self) -> int:
        return len(self._chunks)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


# Only silence takes real time in these tests, and little of it.
QUICK = TransferLimits(body_idle_timeout=0.02, body_grace=5, min_body_rate=10)


async def test_a_body_that_stops_coming_is_answered_once_with_408_and_the_connection_closed() -> (
    None
):
    client = SlowClient(ManualClock(), (0, b"xx"))
    await client.call(length, QUICK)
    assert client.status == 408
    assert (b"connection", b"close") in client.sent[0]["headers"]
    assert json.loads(client.body)["code"] == "request-timeout"
    assert [message["type"] for message in client.sent] == [
        "http.response.start",
        "http.response.body",
    ]


async def test_http_2_knows_no_connection_header() -> None:
    client = SlowClient(ManualClock())
    await client.call(length, QUICK, http_version="2")
    assert client.status == 408
    assert b"connection" not in dict(client.sent[0]["headers"])


@pytest.mark.parametrize("make", [starlette_app, fastapi_app])
async def test_a_frameworks_own_reader_adds_nothing_to_the_408(make: Callable[[], ASGIApp]) -> None:
    client = SlowClient(ManualClock(), (0, b"xx"))
    more = {"path": "/body", "raw_path": b"/body", "query_string": b"", "root_path": ""}
    await client.call(make(), QUICK, **more)
    assert (client.status, len(client.sent)) == (408, 2)


async def test_a_byte_now_and_then_is_too_slow_though_never_silent_for_long() -> None:
    client = SlowClient(ManualClock(), *[(1, b"x")] * 20)
    # With one byte a second the patience, 5 s and 0.1 s for each byte, is over after the sixth.
    await client.call(length, replace(QUICK, body_idle_timeout=2))
    assert (client.status, client.unsent) == (408, 14)
    assert len(client.sent) == 2


async def test_a_slow_but_honest_client_is_waited_for() -> None:
    client = SlowClient(ManualClock(), *[(1, b"x" * 20)] * 50, (0, b""))
    await client.call(length, QUICK)
    assert (client.status, client.body) == (200, b"1000")


async def test_the_time_the_application_takes_between_chunks_is_not_the_clients() -> None:
    clock = ManualClock()

    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body", False):
            clock.advance(100)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    client = SlowClient(clock, *[(1, b"x")] * 3, (0, b""))
    await client.call(busy, QUICK)
    assert client.status == 200


async def test_a_response_under_way_is_broken_off_when_its_request_is_too_slow() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (message := await receive())["type"] == "http.request":
            await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    client = SlowClient(ManualClock(), (0, b"xx"))
    request = await client.call(echo, QUICK)
    assert [message.get("more_body") for message in client.sent] == [None, True]
    assert request.error_type == "client_disconnected"


async def test_a_crash_after_the_408_is_seen_by_the_layers_outside() -> None:
    client = SlowClient(ManualClock())
    with pytest.raises(RuntimeError, match="a crash"):
        await client.call(reading_crash(RuntimeError("a crash")), QUICK)
    assert client.status == 408


async def test_without_a_body_nothing_bounds_the_wait_for_the_disconnect() -> None:
    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["more_body"] is False
        with anyio.move_on_after(0.1) as patience:
            await receive()
        assert patience.cancelled_caught

    client = SlowClient(ManualClock(), (0, b""))
    await client.call(wait, QUICK)
    assert client.sent == []


class NonReader:
    """Takes at most this many bytes."""

    def __init__(self, room: int) -> None:
        self._room = room
        self.taken: list[Message] = []

    async def receive(self) -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        if len(message.get("body", b"")) > self._room:
            await anyio.sleep_forever()
        self._room -= len(message.get("body", b""))
        self.taken.append(message)

    async def call(self, app: ASGIApp) -> RequestContext:
        scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        with anyio.fail_after(20):
            await WithTransfer(app, TransferLimits(write_timeout=0.02))(
                scope, self.receive, self.send
            )
        request: RequestContext = scope["postfacta.request"]
        return request

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.taken)


def streaming(chunk: bytes, times: int, raised: list[BaseException] | None = None) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(times):
            try:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except OSError as error:
                if raised is None:
                    raise
                raised.append(error)
        if raised:
            assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.body", "body": b""})

    return app


async def test_a_client_that_does_not_read_is_taken_for_gone() -> None:
    client = NonReader(200_000)
    request = await client.call(streaming(b"x" * 10_000, 50))
    assert len(client.body) == 200_000
    assert all(message.get("more_body", True) for message in client.taken)
    assert request.error_type == "client_disconnected"


async def test_every_later_send_fails_at_once_too_and_receive_says_why() -> None:
    raised: list[BaseException] = []
    client = NonReader(200_000)
    await client.call(streaming(b"x" * 10_000, 50, raised))
    assert len(raised) == 30
    assert {type(error) for error in raised} == {ConnectionAbortedError}


async def test_a_long_body_is_handed_on_in_pieces_each_of_which_must_get_away() -> None:
    body = bytes(range(256)) * 1000

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    reader, non_reader = NonReader(len(body)), NonReader(100_000)
    await reader.call(app)
    assert reader.body == body
    assert [message.get("more_body", False) for message in reader.taken[1:]] == [
        True,
        True,
        True,
        False,
    ]
    assert max(len(message.get("body", b"")) for message in reader.taken) == 65_536
    await non_reader.call(app)
    assert non_reader.body == body[:65_536]


async def test_a_small_response_is_handed_on_as_it_is() -> None:
    message = {"type": "http.response.body", "body": b"x" * 65_536, "more_body": False}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send(message)

    client = NonReader(100_000)
    await client.call(app)
    assert client.taken[1] is message


async def test_a_small_response_gets_no_timer() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": False})

    with anyio.move_on_after(0.1) as patience:
        await NonReader(0).call(app)
    assert patience.cancelled_caught


async def recorded(
    app: ASGIApp, client: SlowClient | NonReader, limits: TransferLimits
) -> tuple[int, str]:
    """Serve a client under telemetry; return the status and the error type that it recorded."""
    seen: list[tuple[int, str]] = []

    class Keep(Recorder):
        def begin(self, exchange: Exchange, /) -> None: ...
        def answered(self, exchange: Exchange, /) -> None: ...
        def end(self, exchange: Exchange, /) -> None:
            seen.append((exchange.status, exchange.error_type))

    headers = [(b"transfer-encoding", b"chunked")]
    scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    with anyio.fail_after(20):
        kernel = WithTransfer(app, limits, recorders=[Keep()])
        await kernel(scope, client.receive, client.send)
    return seen[0]


async def test_telemetry_counts_a_client_that_does_not_read_as_one_that_left() -> None:
    limits = TransferLimits(write_timeout=0.02)
    app = streaming(b"x" * 10_000, 50)
    assert await recorded(app, NonReader(200_000), limits) == (499, "client_disconnected")


async def test_telemetry_counts_a_slow_body_as_the_clients_fault() -> None:
    app = reading_crash(ClientDisconnect())
    assert await recorded(app, SlowClient(ManualClock(), (0, b"x")), QUICK) == (408, "")
    with pytest.raises(RuntimeError):
        await recorded(reading_crash(RuntimeError()), SlowClient(ManualClock()), QUICK)


SWEPT = TransferLimits(body_idle_timeout=0.5, body_grace=0.9, min_body_rate=100)


class Swept:
    """A service whose deadlines are swept, as those of `harden` are, on the time of its loop."""

    def __init__(
        self, *pieces: tuple[float, bytes], limits: TransferLimits = SWEPT, timeout: float = 60.0
    ) -> None:
        self._pieces = list(pieces)
        self.sent: list[Message] = []
        self.sizes: list[int] = []
        self.running = RunningRequests(clock=loop_clock())
        self.shedding = WithShedding(self._read, clock=loop_clock())
        self.app = Kernel(
            self._read,
            requests=self.running,
            rules=Rules(limits=limits, timeout=timeout),
            admission=self.shedding,
            clock=loop_clock(),
        )

    async def _read(self, scope: Scope, receive: Receive, send: Send) -> None:
        await length(scope, receive, send)
        # It was cut off, and not cancelled: it may still await.
        await anyio.sleep(0.01)
        self.sizes.append(len(self.sent))

    async def _receive(self) -> Message:
        if not self._pieces:
            await anyio.sleep_forever()
        pause, piece = self._pieces.pop(0)
        await anyio.sleep(pause)
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    async def serve(self) -> float:
        began = anyio.current_time()
        headers = [(b"transfer-encoding", b"chunked")]
        async with self.running:
            await self.app(
                {"type": "http", "method": "POST", "path": "/", "headers": headers},
                self._receive,
                self._send,
            )
        assert self.shedding.limiter.in_flight == 0
        return anyio.current_time() - began


@pytest.mark.parametrize(
    ("pieces", "seconds"),
    [
        ([(0.0, b"x")], 0.5),  # silence
        ([(0.3, b"x")] * 20, 0.9),  # a byte now and then
    ],
)
async def test_where_deadlines_are_swept_the_sweep_ends_a_slow_body(
    pieces: list[tuple[float, bytes]], seconds: float
) -> None:
    service = Swept(*pieces)
    took = await service.serve()
    assert seconds <= took <= seconds + 0.4
    assert [message.get("status") for message in service.sent] == [408, None]
    assert service.sizes == [2]


async def test_where_deadlines_are_swept_an_honest_body_is_waited_for() -> None:
    service = Swept(*[(0.2, b"x" * 20)] * 10, (0.2, b""))
    await service.serve()
    assert [message.get("status") for message in service.sent] == [200, None]
    assert service.sent[1]["body"] == b"200"


async def test_the_cancellation_of_others_goes_through_the_wait_for_a_body() -> None:
    service = Swept()
    with anyio.move_on_after(0.1) as outer:
        await service.serve()
    assert outer.cancelled_caught
    assert service.sent == []


async def test_the_deadline_counts_while_a_body_is_waited_for() -> None:
    service = Swept(timeout=0.2)
    assert await service.serve() <= 0.3
    assert service.sent[0]["status"] == 504


class Download:
    """A download whose write timeout is kept by the sweep, on the time of its loop."""

    def __init__(self, room: int, *bodies: bytes, timeout: float = 60.0) -> None:
        self._room = room
        self._bodies = bodies
        self.sent: list[Message] = []
        self.raised: list[BaseException] = []
        self.running = RunningRequests(clock=loop_clock())
        rules = Rules(
            limits=TransferLimits(write_timeout=0.5), timeout=timeout, stream_timeout=timeout
        )
        self.app = Kernel(self._write, requests=self.running, rules=rules, clock=loop_clock())

    async def _write(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number, body in enumerate(self._bodies, 1):
            more = number < len(self._bodies)
            try:
                await send({"type": "http.response.body", "body": body, "more_body": more})
            except BaseException as error:
                self.raised.append(error)
                if not isinstance(error, OSError):
                    raise
                await anyio.sleep(0.01)  # It was cut off, and not cancelled: it may still await.

    async def _send(self, message: Message) -> None:
        size = len(message.get("body", b""))
        if size > self._room:
            await anyio.sleep_forever()
        await anyio.sleep(0.2)
        self._room -= size
        self.sent.append(message)

    async def serve(self) -> float:
        began = anyio.current_time()
        async with self.running:
            scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
            await self.app(scope, _sends_nothing, self._send)
        return anyio.current_time() - began


async def _sends_nothing() -> Message:
    await anyio.sleep_forever()
    raise AssertionError


PIECES = [b"x" * 40_000] * 3


@pytest.mark.parametrize(
    ("bodies", "taken", "times"), [(PIECES, 1, 2), ([b"x" * 150_000, b""], 1, 2)]
)
async def test_where_deadlines_are_swept_the_sweep_ends_a_slow_reader(
    bodies: list[bytes], taken: int, times: int
) -> None:
    download = Download(70_000, *bodies)
    took = await download.serve()
    assert [type(error) for error in download.raised] == [ConnectionAbortedError] * times
    assert len(download.sent) == 1 + taken
    assert 0.9 <= took <= 1.1


async def test_where_deadlines_are_swept_a_slow_but_steady_reader_is_waited_for() -> None:
    download = Download(1_000_000, *PIECES, b"x" * 150_000)
    await download.serve()
    assert download.raised == []
    assert sum(len(message.get("body", b"")) for message in download.sent) == 270_000


async def test_the_cancellation_of_others_goes_through_the_wait_for_a_reader() -> None:
    download = Download(70_000, *PIECES)
    with anyio.move_on_after(0.6) as outer:
        await download.serve()
    assert outer.cancelled_caught
    assert [isinstance(error, OSError) for error in download.raised] == [False]


async def test_a_deadline_ends_the_wait_for_a_reader_as_a_cancellation() -> None:
    download = Download(70_000, *PIECES, timeout=0.6)
    assert await download.serve() <= 0.7
    assert [isinstance(error, OSError) for error in download.raised] == [False]


class TwoSenders(Download):
    """Two tasks send pieces of one response at once; the client never reads those of the first."""

    async def _write(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await self._send_piece(send, b"z" * 65_536)  # It finds room in buffers.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._send_piece, send, b"x" * 1000)
            await anyio.sleep(0.1)
            await self._send_piece(send, b"y" * 1000)

    async def _send_piece(self, send: Send, piece: bytes) -> None:
        try:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        except ConnectionAbortedError as error:
            self.raised.append(error)

    async def _send(self, message: Message) -> None:
        if message.get("body", b"").startswith(b"x"):
            await anyio.sleep_forever()
        await anyio.sleep(0.05)
        self.sent.append(message)


async def test_of_two_tasks_that_send_each_has_its_write_timeout() -> None:
    download = TwoSenders(0)
    with anyio.move_on_after(5) as patience:
        took = await download.serve()
        assert 0.45 <= took <= 0.9
    assert not patience.cancelled_caught
    assert [type(error) for error in download.raised] == [ConnectionAbortedError]
    assert len(download.sent) == 3
