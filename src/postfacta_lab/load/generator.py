"""Plans when each request of a run begins, and sends it then, whatever became of the others.

An open loop: a slow server gets as many requests as a quick one. A latency counts from the moment
the request was *meant* to begin. A request that finds no idle connection opens one; a client whose
patience ends hangs up.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import ssl
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate, repeat, takewhile
from secrets import randbelow, token_hex
from typing import Literal
from urllib.parse import urlsplit

from ..engine.client import Connection, Outcome, Response, encode
from ..engine.values import Headers
from .gate import Sample
from .mix import Ask

_TICK = 0.001  # seconds; a shorter sleep is one turn of the loop for nothing
_CONNECT = 5.0  # seconds that a connection may take
_SAFE = {"GET", "HEAD"}
MOST_ARRIVALS = 500_000  # each answer is kept, for percentiles that are exact

Shape = Literal["constant", "poisson"]


def moments(shape: Shape, rate: float, seconds: float, *, seed: int = 1) -> tuple[float, ...]:
    """Make a schedule; give its offsets in seconds from the start."""
    if not (rate > 0 and 0 < seconds < math.inf):
        raise ValueError(
            f"a run needs a rate and a length above 0, not {rate:g} a second for {seconds:g} s"
        )
    arrivals_planned = rate * seconds
    if round(arrivals_planned) > MOST_ARRIVALS:
        raise ValueError(
            f"{arrivals_planned:.0f} arrivals are more than {MOST_ARRIVALS}: lower the rate or the"
            " length"
        )
    if shape == "constant":
        return tuple(number / rate for number in range(round(arrivals_planned)))
    gaps = randomness(seed)
    arrivals = accumulate(gaps.expovariate(1.0) for _ in repeat(None))
    return tuple(at / rate for at in takewhile(lambda at: at < arrivals_planned, arrivals))


def randomness(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - a schedule, no secret


@dataclass(slots=True)
class Meter:
    """Keeps the samples of a run, and drops arrivals above the cap.

    A generator without sockets would measure itself.
    """

    cap: int
    samples: list[Sample] = field(default_factory=list[Sample])
    dropped: list[float] = field(default_factory=list[float])
    waiting: list[float] = field(
        default_factory=list[float]
    )  # when those were due that have no end yet

    def admit(self, intended: float) -> bool:
        """Accept an arrival, or drop it; each accepted one must come to ``finish``."""
        is_admitted = len(self.waiting) < self.cap
        (self.waiting if is_admitted else self.dropped).append(intended)
        return is_admitted

    def finish(self, sample: Sample) -> None:
        self.waiting.remove(sample.intended)
        self.samples.append(sample)


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and what each of them brings."""

    url: str  # with a path before those of the requests, if any
    headers: Headers
    alternating: bool = False  # every other request is the last one on its connection

    def bytes_of(self, ask: Ask) -> bytes:
        """Write a request; a write has a key, and one request of a hundred a trace."""
        parts = urlsplit(self.url)
        headers = {
            "Host": parts.netloc.rpartition("@")[2],
            "X-Traffic-Class": "load",
            **self.headers,
        }
        body = None if ask.method in _SAFE else b""
        if ask.body is not None:
            body = json.dumps(ask.body).encode()
            headers["Content-Type"] = "application/json"
        if ask.method not in _SAFE:
            headers["Idempotency-Key"] = ask.key or str(uuid.uuid4())
        if self.alternating and randbelow(2):
            headers["Connection"] = "close"
        if not randbelow(100):
            headers["traceparent"] = f"00-{token_hex(16)}-{token_hex(8)}-01"
        path = parts.path.rstrip("/") + ask.path
        return encode(ask.method, path, headers, body=body)


class Generator:
    """Sends to one target what the meter admits, on kept connections.

    Patience is in seconds, from when a request was due. The clock began at `zero` on
    ``time.perf_counter``, or now.
    """

    def __init__(
        self,
        target: Target,
        meter: Meter,
        *,
        patience: float,
        zero: float | None = None,
    ) -> None:
        self._target = target
        self._meter = meter
        self._patience = patience
        parts = urlsplit(target.url)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._idle: list[Connection] = []
        self._under_way: set[asyncio.Task[object]] = set()
        self._zero = time.perf_counter() if zero is None else zero

    def now(self) -> float:
        return time.perf_counter() - self._zero

    async def send(self, moments: Iterable[float], asks: Iterable[Ask]) -> None:
        """Send each at its moment, until either has no more; return when the last one was sent."""
        loop = asyncio.get_running_loop()
        for due, ask in zip(moments, asks, strict=False):
            while (ahead := due - self.now()) > 0:
                await asyncio.sleep(max(ahead, _TICK))
            if self._meter.admit(due):
                task = loop.create_task(self.measure(ask, due))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    async def settle(self) -> None:
        """Wait until each has an end; the patience of the last one bounds it."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def close(self) -> None:
        for task in self._under_way:
            task.cancel()
        await self.settle()
        for connection in self._idle:
            connection.close()
        await asyncio.sleep(0)  # the loop closes their sockets

    async def measure(self, ask: Ask, due: float) -> Response:
        """Send a request that the meter admitted, and keep how it went."""
        began = self.now()
        answer, error = await self.attempt(ask, due + self._patience)
        self._meter.finish(Sample(ask.route, due, began, self.now(), error))
        return answer

    async def attempt(self, ask: Ask, until: float) -> tuple[Response, str]:
        """Send a request once; return the answer, and what was wrong with it or with its way."""
        try:
            answer = await self._ask(ask, until)
        except OSError as no_connection:
            return Response(broken=Outcome.REFUSED), type(no_connection).__name__
        return answer, "" if ask.is_good(answer.status) else str(answer)

    async def _ask(self, ask: Ask, until: float) -> Response:
        """Ask on an idle connection, or on a new one; raise `OSError` if none can be made."""
        while self._idle:
            idle = self._idle.pop()
            if not idle.is_usable:
                idle.close()
                continue
            answer = await self._answer(idle, ask, until)
            # The server may have closed a kept connection: RFC 9110, 9.2.2.
            if ask.method not in _SAFE or answer.outcome is not Outcome.STALE_EOF:
                return answer
        patience = min(_CONNECT, until - self.now())
        fresh = await Connection.open(self._port, host=self._host, tls=self._tls, patience=patience)
        if fresh.failure:
            raise fresh.failure
        return await self._answer(fresh, ask, until)

    async def _answer(self, connection: Connection, ask: Ask, until: float) -> Response:
        try:
            await connection.send(self._target.bytes_of(ask))
            return await connection.answer(ask.method, until - self.now())
        finally:
            if connection.is_usable:
                self._idle.append(connection)
            else:
                connection.close()
