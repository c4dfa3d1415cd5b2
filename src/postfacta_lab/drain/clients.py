"""The clients of a service that is about to stop, each kind with its own way to notice."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from time import monotonic

from ..engine.client import Connection, Outcome, PartialRequest, ask, encode
from ..engine.values import Headers
from ..load.mix import Ask

_KEEP_ALIVE = 10  # connections
_PROBE_TIMEOUT = 1.0  # what a load balancer gives a probe
_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request: the kind of its client, how it ended, and when it was sent (monotonic)."""

    client: str
    outcome: Outcome
    at: float


async def probe(port: int, path: str, *, headers: Headers | None = None) -> int:
    """Probe on a connection of its own; return the status, or 0 if no answer came in time."""
    request = encode("GET", path, headers)
    answer = await ask(port, request, patience=_PROBE_TIMEOUT)
    return answer.status


def settled(statuses: Sequence[tuple[float, int]], since: float) -> float | None:
    """Return the seconds from then to the first 503 that no 200 follows; None without one."""
    last = takewhile(lambda entry: entry[1] != 200, reversed(statuses))
    moments = [at for at, status in last if status == 503]
    if not moments:
        return None
    return min(moments) - since


class Clients:
    """All clients of one instance, or of its proxy, with each request in the order of the answers.

    As behind a load balancer, new connections come until `notice` seconds after readiness first
    failed; what is open goes on until `ends`.
    """

    def __init__(
        self,
        port: int,
        *,
        notice: float = 0.0,
        headers: Headers | None = None,
    ) -> None:
        self._port = port
        self._notice = notice
        self._headers = headers or {}
        self._stops = math.inf
        self.ends: float = math.inf
        self.attempts: list[Attempt] = []

    @property
    def has_traffic(self) -> bool:
        """Whether new connections still come."""
        return monotonic() < min(self._stops, self.ends)

    def saw_unready(self) -> None:
        self._stops = min(self._stops, monotonic() + self._notice)

    async def probe(
        self,
        path: str,
        statuses: list[tuple[float, int]],
        *,
        every: float,
        decides: bool = True,
    ) -> None:
        """Ask again and again, and add the moment and the status of each answer.

        What is not a 200 decides about traffic.
        """
        while self.has_traffic:
            due = monotonic() + every
            status = await probe(self._port, path)
            statuses.append((monotonic(), status))
            if decides and status != 200:
                self.saw_unready()
            await asyncio.sleep(due - monotonic())

    def begin(self, tasks: asyncio.TaskGroup, paths: Sequence[str]) -> None:
        """Keep ten connections busy, and open fifty new ones a second."""
        for number in range(_KEEP_ALIVE):
            path = paths[number % len(paths)]
            tasks.create_task(self.keep_alive(every=0.1, path=path))
        every = 0.02 * len(paths)
        for path in paths:
            tasks.create_task(self.fresh(every=every, path=path))

    async def keep_alive(self, *, every: float, path: str = "/") -> None:
        """Send at a steady pace on one connection, as long as the server lets it.

        It learns of the end from the server alone: asked to close, it opens another connection only
        while new ones come.
        """
        connection: Connection | None = None
        while self.has_traffic or (connection is not None and monotonic() < self.ends):
            due = monotonic() + every
            connection = await self._send("keep-alive", path, connection)
            await asyncio.sleep(due - monotonic())
        if connection is not None:
            connection.close()

    async def fresh(self, *, every: float, path: str = "/") -> None:
        """Open a new connection for each request, at a steady pace however long answers take."""
        due = monotonic()
        async with asyncio.TaskGroup() as tasks:
            while self.has_traffic:
                tasks.create_task(self.once("fresh", path))
                due += every
                await asyncio.sleep(due - monotonic())

    async def once(self, client: str, path: str) -> None:
        connection = await self._send(client, path, None)
        if connection is not None:
            connection.close()

    async def idle(self, opened: asyncio.Semaphore, fire: asyncio.Event, *, delay: float) -> None:
        """Open a connection with one request, and use it again only a while after `fire`."""
        connection = await self._send("warm-up", "/", None)
        opened.release()
        await fire.wait()
        await asyncio.sleep(delay)
        if connection is not None:
            connection = await self._send("idle", "/", connection)
        if connection is not None:
            connection.close()

    async def half_sent(self, ask: Ask, opened: asyncio.Semaphore, go_on: asyncio.Event) -> None:
        """Send half of a request's body, wait, and send the rest.

        So it is under way for as long as is wished.
        """
        at = monotonic()
        body = json.dumps(ask.body).encode()
        headers = {"Content-Type": "application/json", **self._headers}
        request = encode(ask.method, ask.path, headers, body=body)
        half = len(body) - len(body) // 2
        partial = await PartialRequest.begin(
            self._port,
            request,
            method=ask.method,
            remainder=half,
        )
        opened.release()
        await go_on.wait()
        answer = await partial.finish(_PATIENCE)
        outcome = answer.outcome
        if ask.is_good(answer.status):
            outcome = Outcome.OK
        elif answer.status:
            # Another status than the expected one is an error, even one below 400.
            outcome = Outcome.of(max(answer.status, 400))
        self.attempts.append(Attempt("half-sent", outcome, at))

    async def _send(
        self,
        client: str,
        path: str,
        connection: Connection | None,
    ) -> Connection | None:
        """Send one request, note how it went, and return the connection if it can be used again."""
        at = monotonic()
        connection = connection or await Connection.open(self._port, patience=_PATIENCE)
        answer = await connection.get(path, self._headers, patience=_PATIENCE)
        self.attempts.append(Attempt(client, answer.outcome, at))
        if not connection.closing:
            return connection
        connection.close()
        return None
