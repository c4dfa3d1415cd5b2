"""Says before a run when each request is to begin, sends it then whatever became of the others, keeps what became of each.

An open loop: a slow server gets as many requests as a quick one. A latency counts from the moment the request was
*meant* to begin. A request that finds no idle connection opens one; a client whose patience ends hangs up.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import ssl
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from secrets import randbelow, token_hex
from typing import Literal
from urllib.parse import urlsplit

from ..engine.client import BROKEN, Connection, Outcome, encode
from .gate import Sample
from .mix import Ask

__all__ = ["MOST_ARRIVALS", "Generator", "Meter", "Shape", "Target", "moments", "randomness"]

_TICK = 0.001
_CONNECT = 5.0
_SAFE = {"GET", "HEAD"}
MOST_ARRIVALS = 500_000  # each answer is kept, for percentiles that are exact

Shape = Literal["constant", "poisson"]


def moments(shape: Shape, rate: float, seconds: float, *, seed: int = 1) -> tuple[float, ...]:
    """Make a schedule; give its offsets in seconds from the start."""
    if not (rate > 0 and 0 < seconds < math.inf):
        raise ValueError(f"a run needs a rate and a length above 0, not {rate:g} a second for {seconds:g} s")
    whole = rate * seconds
    if round(whole) > MOST_ARRIVALS:
        raise ValueError(
            f"{whole:.0f} arrivals are more than {MOST_ARRIVALS}: take a shorter run or a lower rate"
        )
    if shape == "constant":
        return tuple(number / rate for number in range(round(whole)))
    gaps, counts = randomness(seed), list[float]()
    at = gaps.expovariate(1.0)
    while at < whole:
        counts.append(at)
        at += gaps.expovariate(1.0)
    return tuple(count / rate for count in counts)


def randomness(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - a schedule, no secret


@dataclass(slots=True)
class Meter:
    """Keeps the samples of a run, and drops arrivals above the cap: a generator without sockets would measure itself."""

    cap: int
    samples: list[Sample] = field(default_factory=list[Sample])
    in_flight: int = 0
    dropped: list[float] = field(default_factory=list[float])

    def admit(self, intended: float) -> bool:
        """Accept an arrival, or drop it; each accepted one must come to ``finish``."""
        if self.in_flight >= self.cap:
            self.dropped.append(intended)
            return False
        self.in_flight += 1
        return True

    def finish(self, sample: Sample) -> None:
        self.in_flight -= 1
        self.samples.append(sample)


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and what each of them brings."""

    url: str  # with a path before those of the requests, if any
    headers: Mapping[str, str]
    alternating: bool = False  # every other request is the last one on its connection

    def bytes_of(self, ask: Ask) -> bytes:
        """Write a request; a write has a key of its own, and one request of a hundred a trace."""
        parts = urlsplit(self.url)
        headers = {"Host": parts.netloc.rpartition("@")[2], "X-Traffic-Class": "load", **self.headers}
        body = None if ask.method in _SAFE else b""
        if ask.body is not None:
            body = json.dumps(ask.body).encode()
            headers["Content-Type"] = "application/json"
        if ask.method not in _SAFE:
            headers["Idempotency-Key"] = str(uuid.uuid4())
        if self.alternating and randbelow(2):
            headers["Connection"] = "close"
        if not randbelow(100):
            headers["traceparent"] = f"00-{token_hex(16)}-{token_hex(8)}-01"
        return encode(ask.method, parts.path.rstrip("/") + ask.path, headers, body=body)


class Generator:
    """Sends to one target what the meter admits, on kept connections.

    Patience is in seconds, from when a request was due. The clock began at `zero` on ``time.perf_counter``, or now.
    """

    def __init__(self, target: Target, meter: Meter, *, patience: float, zero: float | None = None) -> None:
        self._target, self._meter, self._patience = target, meter, patience
        parts = urlsplit(target.url)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._tls else 80)
        self._idle: list[Connection] = []
        self._under_way: dict[asyncio.Task[None], float] = {}
        self._zero = time.perf_counter() if zero is None else zero

    def now(self) -> float:
        return time.perf_counter() - self._zero

    def waiting(self) -> list[float]:
        """List when those were due that have no answer yet; may be called in another thread."""
        return list(self._under_way.values())

    async def send(self, moments: Iterable[float], asks: Iterable[Ask]) -> None:
        """Send each at its moment, until either has no more; return when the last one was sent."""
        for due, ask in zip(moments, asks, strict=False):
            while (ahead := due - self.now()) > 0:
                await asyncio.sleep(max(ahead, _TICK))
            if self._meter.admit(due):
                task = asyncio.get_running_loop().create_task(self._one(ask, due))
                self._under_way[task] = due
                task.add_done_callback(self._under_way.pop)

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

    async def _one(self, ask: Ask, due: float) -> None:
        began, error = self.now(), ""
        try:
            async with asyncio.timeout(due + self._patience - began):
                status = await self._status(ask)
                error = "" if ask.is_good(status) else str(status)
        except EOFError:
            error = "ConnectionResetError"
        except OSError as broken:  # a time-out is one
            error = type(broken).__name__
        except (ValueError, asyncio.LimitOverrunError):
            error = "ValueError"
        self._meter.finish(Sample(ask.route, due, began, self.now(), error))

    async def _status(self, ask: Ask) -> int:
        """Ask on an idle connection, or on a new one."""
        while self._idle:
            kept = self._idle.pop()
            if not kept.is_usable:
                kept.close()
                continue
            try:
                return await self._answer(kept, ask)
            except BROKEN as error:
                if ask.method not in _SAFE or kept.outcome_of(error) is not Outcome.STALE_EOF:
                    raise
                break  # the server had closed a kept connection: RFC 9110, 9.2.2
        new = await Connection.open(self._port, host=self._host, tls=self._tls, patience=_CONNECT)
        return await self._answer(new, ask)

    async def _answer(self, connection: Connection, ask: Ask) -> int:
        try:
            await connection.send(self._target.bytes_of(ask))
            answer = await connection.read(ask.method)
        except BaseException:
            connection.close()
            raise
        if connection.is_usable:
            self._idle.append(connection)
        else:
            connection.close()
        return answer.status
