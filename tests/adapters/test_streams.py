"""A response in pieces is bounded before its first one and between two, and its end is reported once."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import httpx2
import pytest

from postfacta_adapters._streams import Bounds, Watch, counts_by, event_counts
from postfacta_adapters.httpx import Outgoing
from postfacta_core import Backoff, CircuitBreaker, CircuitConfig, Retry
from postfacta_core.errors import (
    CircuitOpenError,
    DeadlineExceededError,
    ResilienceError,
    StreamStalledError,
)
from postfacta_core.events import ListenerFailed, StreamFinished
from postfacta_core.guards import Guard
from postfacta_core.testing import ManualClock, RecordingObserver
from tests.core.virtual import in_virtual_time, loop_clock
from tests.kit.every import every

EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
COMMENT = b": keep-alive\n\n"
EVENT = b"data: token\n\n"
# What a provider does: it waits, or sends, or breaks.
Step = float | bytes | Exception


def often(*steps: Step, times: int = 99) -> list[Step]:
    return [*steps] * times


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return in_virtual_time(request.param)


class Provider(httpx2.AsyncBaseTransport):
    """Answers each request by steps, `before` seconds after it came."""

    def __init__(self, *steps: Step, before: float = 0.0, status: int = 200) -> None:
        self.steps: Sequence[Step] = steps
        self.before = before
        self.status = status
        self.headers: dict[str, str] = EVENTS
        self.sent = 0
        self.open = 0
        self.closed = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.sent += 1
        await anyio.sleep(self.before)
        return httpx2.Response(self.status, headers=self.headers, stream=Steps(self))


class Steps(httpx2.AsyncByteStream):
    """The body of one of its answers."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._is_closed = False
        provider.open += 1

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        for step in self._provider.steps:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, bytes):
                yield step
            else:
                await anyio.sleep(step)

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):  # as httpcore's
            await anyio.lowlevel.checkpoint()
        if not self._is_closed:
            self._is_closed = True
            self._provider.open -= 1
            self._provider.closed += 1


@asynccontextmanager
async def client_of(
    provider: httpx2.AsyncBaseTransport, *guards: Guard, **options: Any
) -> AsyncGenerator[httpx2.AsyncClient]:
    outgoing = Outgoing("model", *guards, clock=loop_clock(), **options)
    transport = outgoing.transport(provider)
    async with httpx2.AsyncClient(transport=transport, base_url="http://model") as client:
        yield client


def circuit(calls: int = 2) -> CircuitBreaker:
    config = CircuitConfig(minimum_number_of_calls=calls, failure_rate_threshold=0.6)
    return CircuitBreaker("model", config=config, clock=loop_clock())


async def read(client: httpx2.AsyncClient, method: str = "POST", **options: Any) -> bytes:
    async with client.stream(method, "/", **options) as response:
        return b"".join([piece async for piece in response.aiter_raw()])


@pytest.mark.parametrize(
    ("before", "steps"),
    [
        (99.0, [EVENT]),
        (0.0, [99.0, EVENT]),
        (0.0, often(COMMENT, 0.9)),
        (0.0, often(b": keep", 0.9, b"-alive\n", 0.9)),
        (0.0, often(b"\n", 0.9)),
        (0.0, [b": " + b"x" * 600_000, b"x" * 600_000, 0.1, b"\n" + EVENT]),
        (0.0, [*often(b":", b"\n", times=8_200), EVENT]),
    ],
    ids=["no head", "silence", "comments", "split comments", "blank", "one comment", "many"],
)
async def test_a_response_without_a_piece_that_counts_fails_at_first(
    before: float, steps: list[Step]
) -> None:
    provider = Provider(*steps, before=before)
    clock = loop_clock()
    breaker = circuit()
    began = clock()
    async with client_of(provider, breaker, first=5.0, idle=20.0) as client:
        for _ in range(2):
            with pytest.raises(StreamStalledError) as caught:
                await read(client)
            assert isinstance(caught.value, httpx2.ReadTimeout)
            assert isinstance(caught.value, DeadlineExceededError)
            assert caught.value.request.method == "POST"
            assert caught.value.policy == "model"
        assert clock() - began <= 10.0 + 1.0
        assert provider.open == 0
        with pytest.raises(CircuitOpenError) as refused:
            await read(client)
        assert isinstance(refused.value, httpx2.TransportError)
    assert provider.sent == 2


async def test_a_silence_after_the_first_piece_is_a_late_failure() -> None:
    provider = Provider(EVENT, 1.0, EVENT, *often(COMMENT, 0.9))
    breaker = circuit()
    async with client_of(provider, breaker, first=5.0, idle=20.0) as client:
        for _ in range(2):
            pieces = list[bytes]()
            with pytest.raises(httpx2.ReadTimeout):
                async with client.stream("POST", "/") as response:
                    async for piece in response.aiter_raw():
                        pieces.append(piece)
            assert pieces[:3] == [EVENT, EVENT, COMMENT]
            assert len(pieces) <= 2 + 24
        assert breaker.statistics().failure_rate == 1.0
        with pytest.raises(CircuitOpenError):
            await read(client)
    assert (provider.sent, provider.open, provider.closed) == (2, 0, 2)


async def test_a_connection_that_breaks_midway_is_a_late_failure() -> None:
    breaker = circuit(calls=1)
    async with client_of(Provider(EVENT, httpx2.ReadError("reset")), breaker, first=5.0) as client:
        with pytest.raises(httpx2.ReadError):
            await read(client)
    assert breaker.statistics().state == "open"


async def test_a_stream_of_before_a_recovery_opens_no_circuit() -> None:
    breaker = circuit(calls=1)
    async with client_of(Provider(EVENT, 99.0), breaker, first=5.0, idle=20.0) as client:
        async with client.stream("POST", "/") as response:
            pieces = response.aiter_raw()
            assert await anext(pieces) == EVENT
            breaker.open()
            breaker.reset()
            with pytest.raises(StreamStalledError):
                await anext(pieces)
            assert breaker.statistics().failures == 0
        # The same one, without a recovery between.
        with pytest.raises(StreamStalledError):
            await read(client)
    assert breaker.statistics().state == "open"


async def test_a_slow_stream_that_lives_is_never_cut() -> None:
    steps = [step for _ in range(600) for step in (1.0, COMMENT, EVENT[:3], EVENT[3:])]
    provider = Provider(*steps, before=4.0)
    provider.steps = provider.steps[1:]
    clock = loop_clock()
    breaker = circuit()
    began = clock()
    async with client_of(provider, breaker, first=5.0, idle=1.5) as client:
        assert len(await read(client)) == 600 * len(COMMENT + EVENT)
    assert clock() - began >= 600
    assert breaker.statistics().failures == 0


async def test_a_slow_reader_is_no_silence_of_the_provider() -> None:
    count = 0
    async with (
        client_of(Provider(EVENT, EVENT, EVENT), first=5.0, idle=2.0) as client,
        client.stream("POST", "/") as response,
    ):
        async for _ in response.aiter_raw():
            await anyio.sleep(60)
            count += 1
    assert count == 3


async def test_a_stalled_request_is_sent_again_only_if_that_is_safe() -> None:
    def retry() -> Retry:
        return Retry("model", attempts=3, backoff=Backoff(base=0.001, cap=0.001))

    key = {"Idempotency-Key": "7"}
    cases: list[tuple[str, dict[str, str], bool, int]] = [
        ("POST", {}, False, 1),
        ("GET", {}, False, 3),
        ("POST", key, False, 3),
        ("POST", {}, True, 3),
    ]
    with every() as case:
        for method, headers, repeats, sent in cases:
            with case(method, headers, repeats):
                provider = Provider(99.0)
                async with client_of(provider, retry(), first=1.0, repeats=repeats) as client:
                    with pytest.raises(StreamStalledError):
                        await read(client, method, headers=headers)
                assert (provider.sent, provider.open) == (sent, 0)


async def test_the_body_of_a_failure_is_bounded_and_no_late_failure() -> None:
    breaker = circuit()
    async with (
        client_of(Provider(99.0, status=529), breaker, first=1.0, idle=1.0) as client,
        client.stream("POST", "/") as response,
    ):
        assert response.status_code == 529
        with pytest.raises(StreamStalledError):
            await response.aread()
    assert breaker.statistics().failures == 1


async def test_how_each_stream_ended_is_reported_once() -> None:
    cases: list[tuple[list[Step], str, int]] = [
        ([EVENT, COMMENT, 1.0, EVENT], "complete", 2),
        ([COMMENT, 99.0], "first", 0),
        ([EVENT, 99.0], "idle", 1),
        ([EVENT, httpx2.ReadError("reset")], "cut", 1),
        ([EVENT, 4.0], "left", 1),
    ]
    with every() as case:
        for steps, ended, pieces in cases:
            with case(ended):
                observer = RecordingObserver()
                provider = Provider(*steps, before=1.0)
                async with client_of(provider, first=5.0, idle=5.0, observer=observer) as client:
                    with suppress(httpx2.TransportError), anyio.move_on_after(4.0):
                        await read(client)
                    with suppress(httpx2.TransportError):
                        await read(client) if ended in {"first", "idle"} else None
                finished = observer.of(StreamFinished)
                assert [each.service for each in finished] == ["model"] * len(finished)
                assert (finished[-1].ended, finished[-1].pieces) == (ended, pieces)
                assert finished[-1].first_seconds == (1.0 if pieces else None)
                assert len(finished) == provider.sent


async def test_a_client_that_leaves_closes_the_stream_and_fails_nothing() -> None:
    breaker = circuit(calls=1)
    provider = Provider(EVENT, 99.0, EVENT)
    waiting = Provider(99.0, EVENT)
    async with (
        client_of(provider, breaker, first=200.0, idle=200.0) as client,
        client_of(waiting, breaker, first=200.0) as slow,
    ):
        for asked in (client, slow):
            with anyio.move_on_after(3) as scope:
                await read(asked)
            assert scope.cancelled_caught
        async with client.stream("POST", "/") as response:
            assert not response.is_closed
    assert (provider.open, waiting.open) == (0, 0)
    assert breaker.statistics().failures == 0


async def test_without_first_the_head_is_handed_on_at_once() -> None:
    async with (
        client_of(Provider(99.0, EVENT, 3.0), idle=2.0) as client,
        client.stream("POST", "/") as response,
    ):
        clock = loop_clock()
        began = clock()
        with pytest.raises(StreamStalledError):
            await response.aread()
        assert clock() - began == pytest.approx(101, abs=0.1)


async def test_what_counts_may_be_decided_by_the_team() -> None:
    observer = RecordingObserver()

    def counts(piece: bytes) -> bool:
        if piece == b"broken":
            raise LookupError(piece)
        return b"token" in piece

    provider = Provider(b"broken", b"ping", 3.0, b"token", 3.0, b"ping")
    async with client_of(provider, first=5.0, counts=counts, observer=observer) as client:
        assert await read(client) == b"brokenpingtokenping"
    assert len(observer.of(ListenerFailed)) == 1
    async with client_of(Provider(b"ping", 3.0, b"ping", 9.0), first=5.0, counts=counts) as client:
        with pytest.raises(StreamStalledError):
            await read(client)


async def test_a_clients_shorter_timeout_is_a_stall_too() -> None:
    provider = Provider(EVENT, httpx2.ReadTimeout("5 s"))
    async with client_of(provider, breaker := circuit(calls=1), idle=20.0) as client:
        with pytest.raises(StreamStalledError):
            await read(client)
    assert breaker.statistics().state == "open"


async def test_a_response_whose_body_is_there_needs_no_watch() -> None:
    answers = httpx2.MockTransport(lambda request: httpx2.Response(200, json={"id": 7}))
    async with client_of(answers, first=1.0, idle=1.0) as client:
        assert (await client.post("/")).json() == {"id": 7}


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_both_clients_know_the_errors(library: Any) -> None:
    def fails(request: Any) -> Any:
        raise library.ReadTimeout("silent", request=request)

    breaker = CircuitBreaker("model")
    breaker.force_open()
    for guards, error in (((breaker,), library.TransportError), ((), library.ReadTimeout)):
        transport = Outgoing("model", *guards, first=1.0).transport(library.MockTransport(fails))
        async with library.AsyncClient(transport=transport) as client:
            with pytest.raises(error) as caught:
                await client.get("http://model/")
            assert caught.value.request.url == "http://model/"
            assert isinstance(caught.value, ResilienceError) is bool(guards)
        with library.Client(transport=transport) as script, pytest.raises(error) as caught:
            script.get("http://model/")
        assert isinstance(caught.value, ResilienceError)


def test_an_event_counts_by_a_line_that_is_no_comment() -> None:
    cases: list[tuple[list[bytes], list[bool]]] = [
        ([COMMENT, EVENT], [False, True]),
        ([b": a\ndata: 1\n\n"], [True]),
        ([b": a\rdata: 1\r\r"], [True]),
        ([b": a\r", b"\nx"], [False, True]),
        ([b":", b" data: x", b"\n", b"\n"], [False] * 4),
        ([b"\r\n", b"", b"\n\n"], [False] * 3),
        ([b"data: ", b"token", b"\n"], [True, True, True]),
        ([b"event: ping\n: x\n", b": y\n"], [True, False]),
        ([b"da", b":", b"\n", b":"], [True, True, True, False]),
    ]
    with every() as case:
        for pieces, counted in cases:
            with case(pieces):
                counts = event_counts()
                assert [counts(piece) for piece in pieces] == counted


def test_only_a_plain_event_stream_is_read_for_comments() -> None:
    cases: list[tuple[dict[str, str], bool]] = [
        (EVENTS, False),
        ({"content-type": "Text/Event-Stream"}, False),
        ({**EVENTS, "content-encoding": "gzip"}, True),
        ({"content-type": "application/json"}, True),
        ({}, True),
    ]
    with every() as case:
        for headers, counted in cases:
            with case(headers):
                assert bool(counts_by(httpx2.Headers(headers))(COMMENT)) is counted


def test_an_end_is_reported_once() -> None:
    clock = ManualClock()
    ends = list[object]()
    watch = Watch(
        Bounds(first=5.0, idle=2.0),
        clock,
        stalled=lambda: StreamStalledError("model"),
        report=ends.append,
        ended=lambda watch, ending, error: ends.append((ending, watch.first)),
    )
    clock.advance(3)
    watch.answered({})
    assert watch.left == 2.0
    assert watch.add(b"x", 1.0)
    assert watch.left == 2.0
    watch.stall()
    watch.end("left")
    assert ends == [("idle", 3.0)]


class Script(httpx2.BaseTransport):
    """A provider for a sync client; a wait is one of the manual clock, and ends as httpx's would."""

    def __init__(self, clock: ManualClock, *steps: Step, before: float = 0.0) -> None:
        self.clock = clock
        self.steps = steps
        self.before = before
        self.closed = 0

    def wait(self, seconds: float, most: float | None) -> None:
        self.clock.advance(seconds if most is None else min(seconds, most))
        if most is not None and seconds > most:
            raise httpx2.ReadTimeout("no byte came")

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        waits = request.extensions["timeout"]
        self.wait(self.before, waits.get("read"))
        script = self

        class Body(httpx2.SyncByteStream):
            def __iter__(self) -> Generator[bytes]:
                most = waits.get("read")
                for step in script.steps:
                    if isinstance(step, bytes):
                        yield step
                    elif isinstance(step, Exception):
                        raise step
                    else:
                        script.wait(step, most)

            def close(self) -> None:
                script.closed += 1

        return httpx2.Response(200, headers=EVENTS, stream=Body())


def test_a_sync_client_is_bounded_by_its_read_timeout_and_each_piece() -> None:
    cases: list[tuple[str, Callable[[ManualClock], Script], float]] = [
        ("no head", lambda clock: Script(clock, before=99.0), 5.0),
        ("no piece", lambda clock: Script(clock, 99.0), 20.0),
        ("comments", lambda clock: Script(clock, *often(COMMENT, 0.9)), 6.0),
        ("a cut", lambda clock: Script(clock, EVENT, httpx2.ReadError("cut")), 1.0),
        ("midway", lambda clock: Script(clock, EVENT, 99.0), 21.0),
        ("comments midway", lambda clock: Script(clock, EVENT, *often(COMMENT, 0.9)), 21.0),
    ]
    with every() as case:
        for name, made, most in cases:
            with case(name):
                clock = ManualClock()
                began = clock()
                breaker = CircuitBreaker(
                    "script", config=CircuitConfig(minimum_number_of_calls=1), clock=clock
                )
                outgoing = Outgoing("script", breaker, first=5.0, idle=20.0, clock=clock)
                script = made(clock)
                transport = outgoing.transport(script)
                with (
                    httpx2.Client(transport=transport, timeout=None) as client,
                    pytest.raises(httpx2.TransportError) as caught,
                    client.stream("POST", "http://model/") as response,
                ):
                    response.read()
                assert isinstance(caught.value, StreamStalledError) is (name != "a cut")
                assert breaker.statistics().state == "open"
                assert clock() - began <= most
                assert script.closed >= (name != "no head")


def test_a_sync_stream_that_lives_is_whole_in_any_thread() -> None:
    clock = ManualClock()
    outgoing = Outgoing("script", first=5.0, idle=2.0, clock=clock)
    script = Script(clock, COMMENT, *often(1.0, EVENT, times=600))
    read = list[bytes]()

    def run() -> None:
        with (
            httpx2.Client(transport=outgoing.transport(script)) as client,
            client.stream("POST", "http://model/") as response,
        ):
            read.extend(response.iter_raw())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert b"".join(read) == COMMENT + EVENT * 600
