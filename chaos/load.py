"""Keeps a modest load on a service while things are done to it, and knows how users fare.

Open loop: arrivals come from a schedule (`postfacta_lab.load.arrivals`). Half of them open a connection of their own. Each
write is kept as history: the user saw what the first attempt gave, and a careful client repeats it until it knows.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self
from uuid import uuid4

import anyio
import httpx2

from chaos.history import Action, Fact, Outcome, Write
from postfacta_lab.load.arrivals import Meter, Sample, constant
from postfacta_lab.load.gate import percentile

__all__ = ["SLOW", "Load", "Window"]

_LONGEST = 3600.0  # seconds; an experiment that lasts longer is stuck
_CAP = 1000
_TIMEOUT = 15.0
_LONGEST_PAUSE = 5.0
_EVERY = 5  # each fifth request writes
SLOW = 0.5
"""Seconds that no user should wait; a request in flight for longer counts though it has no end yet."""


@dataclass(frozen=True, slots=True)
class Window:
    """How users fared in some seconds."""

    count: int
    failed: int
    p99: float
    longest: float

    @property
    def error_share(self) -> float:
        """The share that failed; all, if no request was served."""
        return self.failed / self.count if self.count else 1.0


@dataclass(slots=True)
class Load:
    """Requests at a rate, from a thread of its own, for as long as the block lasts.

    Attributes:
        url: Where users come in.
        token: Who they are.
        rate: Arrivals a second.
        reads: What is asked for in turn.
        writes: Whether every fifth records an incident.
        fault: What was done last; set by the code that does it.
    """

    url: str
    token: str
    rate: float = 50.0
    reads: Sequence[str] = ("/api/v1/incidents?limit=20", "/api/v0/incidents")
    writes: bool = True
    fault: str = ""
    meter: Meter = field(default_factory=lambda: Meter(cap=_CAP))
    history: list[Write] = field(default_factory=list[Write])
    _open: dict[int, float] = field(default_factory=dict[int, float])
    _began: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread = threading.Thread(target=anyio.run, args=(self._run,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more, and wait until every write has an outcome; again changes nothing."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_TIMEOUT + 45.0)

    def now(self) -> float:
        """Return the seconds since it began."""
        return time.monotonic() - self._began

    def since(self, moment: float) -> Window:
        """Return the figures of requests that were meant to begin after a moment."""
        return self.between(moment, self.now())

    def between(self, first: float, last: float) -> Window:
        """Return the figures of requests that were meant to begin between two moments.

        One in flight counts with the time it has waited, once that is long.
        """
        now = self.now()
        ended = [sample for sample in tuple(self.meter.samples) if first <= sample.intended < last]
        waiting = [now - at for at in tuple(self._open.values()) if first <= at < last and now - at > SLOW]
        dropped = sum(first <= at < last for at in tuple(self.meter.dropped))
        latencies = [sample.latency for sample in ended] + waiting
        return Window(
            count=len(latencies) + dropped,
            failed=sum(bool(sample.error) for sample in ended) + dropped,
            p99=percentile(latencies, 0.99),
            longest=max(latencies, default=0.0),
        )

    def is_well(self, since: float) -> bool:
        """Return whether users have been well for a second: none failed, and none waited long.

        The last moment is left out: who began there may still be waiting.

        Args:
            since: What was before it says nothing about now.
        """
        last = self.now() - SLOW
        if last - since < 1.0:
            return False
        second = self.between(last - 1.0, last)
        return second.count >= self.rate / 2 and not second.failed and second.longest < SLOW

    async def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
        async with (
            httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=_TIMEOUT, limits=limits) as client,
            anyio.create_task_group() as group,
        ):
            for number, moment in enumerate(constant(self.rate, _LONGEST)):
                await anyio.sleep(max(0.0, moment - self.now()))
                if self._stop.is_set():
                    break
                if self.meter.admit(moment):
                    self._open[number] = moment
                    group.start_soon(self._one, client, number, moment)

    async def _one(self, client: httpx2.AsyncClient, number: int, intended: float) -> None:
        own = {"Connection": "close"} if number % 2 else {}
        began = self.now()
        if self.writes and number % _EVERY == 0:
            await self._write(client, number, own, Sample("POST", intended, began, 0.0))
            return
        path = self.reads[number % len(self.reads)]
        _, error = await _send(client, "GET", path, headers=own)
        self._ended(number, Sample(f"GET {path.partition('?')[0]}", intended, began, self.now(), error))

    def _ended(self, number: int, sample: Sample) -> None:
        self._open.pop(number, None)
        self.meter.finish(sample)

    async def _write(
        self, client: httpx2.AsyncClient, number: int, own: Mapping[str, str], begun: Sample
    ) -> None:
        title = f"Under load {uuid4()}"
        text = f"Recorded under load: {number}"
        body = {"title": title, "description": text, "severity": "LOW", "kind": "exercise"}
        headers = {**own, "Idempotency-Key": f'"{title}"'}
        unknown: list[str] = []
        outcome, attempts, until, fault, resolved = Outcome.INFO, 0, time.monotonic() + 30.0, "", ""
        while outcome is Outcome.INFO and time.monotonic() < until:
            attempts += 1
            answer, error = await _send(client, "POST", "/api/v1/incidents", headers=headers, body=body)
            if attempts == 1:
                self._ended(number, Sample("POST", begun.intended, begun.began, self.now(), error))
            if answer is not None and not error:
                outcome = Outcome.OK
                resolved = "replayed" if "idempotency-replayed" in answer.headers else "repeated"
            elif answer is not None and answer.status_code < 500 and answer.status_code not in {409, 429}:
                outcome = Outcome.FAIL
            else:
                unknown.append(error)
                fault = fault or self.fault
                await anyio.sleep(_pause_before(attempts + 1))
        self.history.append(
            Write(
                incident=title,
                fact=Fact(Action.CREATE, f"LOW {text}"),
                outcome=outcome,
                version=1 if outcome is Outcome.OK else 0,
                attempts=attempts,
                unknown=tuple(unknown),
                resolved=resolved if unknown else "",
                fault=fault,
            )
        )


def _pause_before(attempt: int) -> float:
    """Back off, with jitter: thousands who repeat at once would be a fault of their own."""
    return min(0.15 * 2.0**attempt, _LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


async def _send(
    client: httpx2.AsyncClient,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str],
    body: Mapping[str, str] | None = None,
) -> tuple[httpx2.Response | None, str]:
    """Send it once; give the answer if there was one, and what was wrong with it."""
    try:
        answer = await client.request(method, path, headers=dict(headers), json=body)
    except (httpx2.TransportError, OSError) as error:
        return None, type(error).__name__
    return answer, "" if answer.is_success else str(answer.status_code)
