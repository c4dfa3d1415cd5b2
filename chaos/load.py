"""The users of PostFacta: they read, and each fifth records an incident.

Each write is kept as history: the user saw what the first attempt gave, and a careful client
repeats it until it knows.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle
from uuid import uuid4

from chaos.history import Action
from postfacta_lab.chaos.control import Users
from postfacta_lab.durability import Fact, Outcome, Write
from postfacta_lab.engine.client import Response
from postfacta_lab.engine.values import as_dict
from postfacta_lab.load.generator import Generator, Target
from postfacta_lab.load.mix import Ask, read_mix

__all__ = ["Load"]

_PATIENCE = 30.0  # seconds in which a careful client repeats a write
_LONGEST_PAUSE = 5.0
_EVERY = 5  # each fifth request writes


@dataclass(slots=True)
class Load(Users):
    """Requests at a rate, of which some write.

    Attributes:
        reads: What is asked for in turn.
        writes: Whether every fifth records an incident.
        history: What was written, with what its clients know.
    """

    reads: Sequence[str] = ("/api/v1/incidents?limit=20", "/api/v0/incidents")
    writes: bool = True
    history: list[Write] = field(default_factory=list[Write])

    def generator(self, target: Target) -> Generator:
        return _Clients(self, target)

    def asks(self) -> Iterator[Ask]:
        """Yield the reads in turn; each fifth request is a new incident instead."""
        reads = cycle(read_mix(self.reads, None))
        for number in count():
            read = next(reads)
            yield _new_incident(number) if self.writes and number % _EVERY == 0 else read

    @property
    def began(self) -> float:
        """When the clock of the users began, on `time.perf_counter`."""
        return self._began


def _new_incident(number: int) -> Ask:
    title = f"Under load {uuid4()}"
    text = f"Recorded under load: {number}"
    body = {"title": title, "description": text, "severity": "LOW", "kind": "exercise"}
    return Ask("POST", 1, "/api/v1/incidents", "POST", body, key=f'"{title}"')


class _Clients(Generator):
    """Sends for careful clients, and keeps the history of what they wrote."""

    def __init__(self, load: Load, target: Target) -> None:
        super().__init__(target, load.meter, patience=load.patience, zero=load.began)
        self._load = load

    async def measure(self, ask: Ask, due: float) -> Response:
        """Measure a request, and repeat a write until its outcome is known."""
        until = time.monotonic() + _PATIENCE
        answer = await super().measure(ask, due)
        if ask.method != "POST":
            return answer
        attempts = 1
        unknown: list[str] = []
        fault = ""
        while (outcome := _outcome_of(answer)) is Outcome.INFO:
            unknown.append(str(answer))
            fault = fault or self._load.fault
            await asyncio.sleep(_pause_before(attempts + 1))
            if time.monotonic() >= until:
                break
            attempts += 1
            answer, _ = await self.attempt(ask, self.now() + self._load.patience)
        resolved = ""
        if unknown and outcome is Outcome.OK:
            resolved = "replayed" if "idempotency-replayed" in answer.headers else "repeated"
        self._load.history.append(
            Write(
                subject=ask.key.strip('"'),
                fact=Fact(Action.CREATE, f"LOW {as_dict(ask.body)['description']}"),
                outcome=outcome,
                version=1 if outcome is Outcome.OK else 0,
                attempts=attempts,
                unknown=tuple(unknown),
                resolved=resolved,
                fault=fault,
            )
        )
        return answer


def _outcome_of(answer: Response) -> Outcome:
    """Return what a client knows of its write: a conflict, a refusal or silence may be either."""
    if answer.good:
        return Outcome.OK
    if not answer.status or answer.status >= 500 or answer.status in {409, 429}:
        return Outcome.INFO
    return Outcome.FAIL


def _pause_before(attempt: int) -> float:
    """Back off, with jitter: thousands who repeat at once would be a fault of their own."""
    return min(0.15 * 2.0**attempt, _LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
