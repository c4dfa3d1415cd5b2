"""The users of PostFacta: they read, and each fifth records an incident.

Each write is kept as history: the user saw what the first attempt gave, and a careful client
repeats it until it knows.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import anyio
import httpx2

from chaos.history import Action
from postfacta_lab.chaos.control import Users
from postfacta_lab.durability import Fact, Outcome, Write
from postfacta_lab.load.gate import Sample

__all__ = ["Load"]

_TIMEOUT = 15.0
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

    async def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
        async with (
            httpx2.AsyncClient(
                base_url=self.url, headers=headers, timeout=_TIMEOUT, limits=limits
            ) as client,
            anyio.create_task_group() as group,
        ):
            for number, moment in enumerate(self._moments()):
                await anyio.sleep(max(0.0, moment - self.now()))
                if self.meter.admit(moment):
                    group.start_soon(self._one, client, number, moment)

    async def _one(self, client: httpx2.AsyncClient, number: int, intended: float) -> None:
        own = {"Connection": "close"} if number % 2 else {}
        began = self.now()
        if self.writes and number % _EVERY == 0:
            await self._write(client, number, own, Sample("POST", intended, began, 0.0))
            return
        path = self.reads[number % len(self.reads)]
        _, error = await _send(client, "GET", path, headers=own)
        self.meter.finish(
            Sample(f"GET {path.partition('?')[0]}", intended, began, self.now(), error)
        )

    async def _write(
        self, client: httpx2.AsyncClient, number: int, own: Mapping[str, str], begun: Sample
    ) -> None:
        title = f"Under load {uuid4()}"
        text = f"Recorded under load: {number}"
        body = {"title": title, "description": text, "severity": "LOW", "kind": "exercise"}
        headers = {**own, "Idempotency-Key": f'"{title}"'}
        unknown: list[str] = []
        outcome = Outcome.INFO
        attempts = 0
        until = time.monotonic() + 30.0
        fault = ""
        resolved = ""
        while outcome is Outcome.INFO and time.monotonic() < until:
            attempts += 1
            answer, error = await _send(
                client, "POST", "/api/v1/incidents", headers=headers, body=body
            )
            if attempts == 1:
                self.meter.finish(Sample("POST", begun.intended, begun.began, self.now(), error))
            if answer is not None and not error:
                outcome = Outcome.OK
                resolved = "replayed" if "idempotency-replayed" in answer.headers else "repeated"
            elif (
                answer is not None
                and answer.status_code < 500
                and answer.status_code not in {409, 429}
            ):
                outcome = Outcome.FAIL
            else:
                unknown.append(error)
                fault = fault or self.fault
                await anyio.sleep(_pause_before(attempts + 1))
        self.history.append(
            Write(
                subject=title,
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
