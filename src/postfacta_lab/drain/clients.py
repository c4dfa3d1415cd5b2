"""The clients of a service that is about to stop, each kind with its own way to notice."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ..engine.client import Connection, Held, Outcome, ask, encode
from ..load.mix import Ask

__all__ = ["Attempt", "Balancer", "Clients", "Probes", "probe"]

# What a load balancer gives a probe.
_PROBE_TIMEOUT = 1.0
_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request.

    Attributes:
        client: Which kind sent it.
        outcome: How it ended.
        at: When it was sent, on the monotonic clock.
    """

    client: str
    outcome: Outcome
    at: float


class Balancer:
    """Opens connections until a while after readiness first failed, as a load balancer does.

    Args:
        notice: How long it takes to notice, in seconds.
    """

    def __init__(self, notice: float) -> None:
        self._notice = notice
        self._stops = float("inf")
        self._ends = float("inf")

    def saw_unready(self) -> None:
        """Stop sending requests to the instance, soon."""
        self._stops = min(self._stops, time.monotonic() + self._notice)

    def end_by(self, at: float) -> None:
        """End at that moment: what is still open then is closed too."""
        self._ends = min(self._ends, at)

    @property
    def sends(self) -> bool:
        """Whether a new connection may still go to this instance."""
        return time.monotonic() < min(self._stops, self._ends)

    @property
    def is_over(self) -> bool:
        """Whether even open connections are to be used no more."""
        return time.monotonic() >= self._ends


async def probe(port: int, path: str, *, headers: Mapping[str, str] | None = None) -> int:
    """Probe on a connection of its own; return the status, or 0 if no answer came in time."""
    return (await ask(port, encode("GET", path, headers), patience=_PROBE_TIMEOUT)).status


class Probes:
    """What a prober saw, each on a connection of its own: moment of the answer, and status, 0 where no answer came.

    Attributes:
        seen: In order.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []

    async def probe(
        self, port: int, path: str, balancer: Balancer, *, every: float, decides: bool = True
    ) -> None:
        """Ask again and again; what is not a 200 decides about traffic."""
        due = time.monotonic()
        while balancer.sends:
            status = await probe(port, path)
            self.seen.append((time.monotonic(), status))
            if decides and status != 200:
                balancer.saw_unready()
            due = max(due + every, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    def settled(self, since: float) -> float | None:
        """Seconds from then to the first 503 that no 200 follows, or None without one."""
        settled: float | None = None
        for at, status in self.seen:
            if status == 200:
                settled = None
            elif status == 503 and settled is None:
                settled = at - since
        return settled


class Clients:
    """All clients of one instance, and what they noted.

    Args:
        port: Of the instance, or of what stands before it.
        balancer: Says how long to send.
        headers: Sent with each request.

    Attributes:
        attempts: Every request, in the order of the answers.
    """

    def __init__(self, port: int, balancer: Balancer, *, headers: Mapping[str, str] | None = None) -> None:
        self._port = port
        self._headers = headers or {}
        self._balancer = balancer
        self.attempts: list[Attempt] = []

    async def keep_alive(self, *, every: float, path: str = "/") -> None:
        """Send at a steady pace on one connection, as long as the server lets it.

        A balancer that stops sending opens no more connections; what is open goes on. So a client learns of the
        end from the server alone: asked to close, it opens another only while the balancer sends.
        """
        connection: Connection | None = None
        due = time.monotonic()
        while self._balancer.sends or (connection is not None and not self._balancer.is_over):
            connection = await self._send("keep-alive", path, connection)
            due = max(due + every, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
        if connection is not None:
            connection.close()

    async def fresh(self, *, every: float, path: str = "/") -> None:
        """Open a new connection for each request, at a steady pace however long answers take."""
        due = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            while self._balancer.sends:
                tasks.create_task(self._once("fresh", path))
                due += every
                await asyncio.sleep(max(0, due - time.monotonic()))

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

    async def in_flight(self, client: str, path: str) -> None:
        """Send one long request on a connection of its own."""
        await self._once(client, path)

    async def half_sent(self, ask: Ask, opened: asyncio.Semaphore, go_on: asyncio.Event) -> None:
        """Send half of a request's body, wait, and send the rest: so it is under way for as long as is wished."""
        at, body = time.monotonic(), json.dumps(ask.body).encode()
        headers = {"Content-Type": "application/json", **self._headers}
        held = await Held.begin(
            self._port,
            encode(ask.method, ask.path, headers, body=body),
            method=ask.method,
            rest=len(body) - len(body) // 2,
        )
        opened.release()
        await go_on.wait()
        answer = await held.finish(_PATIENCE)
        outcome = answer.outcome
        if answer.status:
            outcome = Outcome.OK if ask.is_good(answer.status) else Outcome.of(max(answer.status, 400))
        self.attempts.append(Attempt("half-sent", outcome, at))

    async def events(self, path: str, opened: asyncio.Semaphore) -> str:
        """Listen to server-sent events; tell how they ended: `ended` in order, or cut off."""
        held = await Held.begin(self._port, encode("GET", path), patience=_PATIENCE)
        answer = await held.finish(None, begun=opened.release)
        return "ended" if answer.status else str(answer.broken)

    def count(self, *clients: str) -> Counter[Outcome]:
        """Outcomes of these kinds of clients."""
        return Counter(attempt.outcome for attempt in self.attempts if attempt.client in clients)

    async def _once(self, client: str, path: str) -> None:
        connection = await self._send(client, path, None)
        if connection is not None:
            connection.close()

    async def _send(self, client: str, path: str, connection: Connection | None) -> Connection | None:
        """Send one request, note how it went, and return the connection if it can be used again."""
        at = time.monotonic()
        try:
            connection = connection or await Connection.open(self._port, patience=_PATIENCE)
        except OSError as error:
            self.attempts.append(Attempt(client, Outcome.of_error(error), at))
            return None
        answer = await connection.get(path, self._headers, patience=_PATIENCE)
        self.attempts.append(Attempt(client, answer.outcome, at))
        if not connection.closing:
            return connection
        connection.close()
        return None
