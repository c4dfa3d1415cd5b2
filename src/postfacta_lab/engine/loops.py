"""Many clients at once: an open loop that does not wait for answers, a closed loop, and clients that are slow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic

from .client import Answer, Connection, Outcome

__all__ = ["Flood", "closed_loop", "open_loop", "slow_clients"]

_Ask = Callable[[], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Flood:
    """Answers with the seconds at which they were due, and how late the generator was at worst."""

    answers: tuple[tuple[float, Answer], ...]
    lateness: float
    seconds: float

    def good(self, within: float) -> int:
        return sum(answer.good and answer.seconds <= within for _, answer in self.answers)


async def open_loop(ask: _Ask, *, rate: float, seconds: float) -> Flood:
    """Ask at a rate, however slow the answers are."""
    answers: list[tuple[float, Answer]] = []
    late = 0.0
    began = monotonic()

    async def one(due: float) -> None:
        answers.append((due, await ask()))

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            due = number / rate
            if (ahead := due - (monotonic() - began)) > 0:
                await asyncio.sleep(ahead)
            late = max(late, monotonic() - began - due)
            group.create_task(one(due))
    return Flood(tuple(answers), late, monotonic() - began)


async def closed_loop(
    ask: _Ask, *, callers: int, seconds: float = 1e9, requests: int = 10**9, pause: float = 0.05
) -> Flood:
    """Let callers ask one after the other, until the time or the number is used up; a refused one pauses."""
    answers: list[tuple[float, Answer]] = []
    began = monotonic()

    async def caller() -> None:
        while (due := monotonic() - began) < seconds and len(answers) < requests:
            answer = await ask()
            answers.append((due, answer))
            if not answer.good:
                await asyncio.sleep(pause)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return Flood(tuple(answers), 0.0, monotonic() - began)


async def slow_clients(
    connect: Callable[[], Awaitable[Connection]],
    first: bytes,
    rest: bytes,
    *,
    clients: int,
    every: float,
    patience: float,
    method: str = "GET",
) -> list[Answer]:
    """Let clients drip the rest of a request; return what ended each, a time-out if it was not ended in time."""

    async def client() -> Answer:
        try:
            connection = await connect()
        except OSError:
            return Answer(broken=Outcome.REFUSED)
        try:
            await connection.send(first)
            pieces = (rest[place : place + 1] for place in range(len(rest)))
            return await connection.drip(pieces, every=every, patience=patience, method=method)
        finally:
            connection.close()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client()) for _ in range(clients)]
    return [task.result() for task in tasks]
