"""Clients that write carefully: each write is repeated with its key until its outcome is known."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import httpx2

from chaos.history import MOVES, Action
from postfacta_lab.durability import Fact, Outcome, Write

__all__ = ["Attempt", "Journal", "Writer", "Writing"]

_SEVERITIES = ("LOW", "MEDIUM", "HIGH", "CRITICAL")
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_UNCLEAR = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(slots=True)
class Journal:
    """The history of all clients, when each write began and ended, and what they were answered."""

    writes: list[Write] = field(default_factory=list[Write])
    times: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    answers: Counter[str] = field(default_factory=Counter[str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def acknowledged_at(self) -> list[float]:
        """When each acknowledgement came."""
        pairs = zip(self.writes, self.times, strict=True)
        return [ended for write, (_, ended) in pairs if write.outcome is Outcome.OK]

    def answered(self, answer: str) -> None:
        """Count an answer to one attempt."""
        with self._lock:
            self.answers[answer] += 1

    def ended(self, write: Write, began: float) -> None:
        """Add a write whose client is done with it."""
        with self._lock:
            self.writes.append(write)
            self.times.append((began, time.monotonic()))

    def as_of(self, moment: float, *, later: Outcome) -> list[Write]:
        """Return the history as a database knows it that was restored to a moment.

        Args:
            moment: What was acknowledged until then is there.
            later: What became of writes that began afterwards: refused, if the database must not
                know them.
        """
        known = list[Write]()
        for write, (began, ended) in zip(self.writes, self.times, strict=True):
            if ended <= moment or write.outcome is Outcome.FAIL:
                known.append(write)
            else:
                outcome = later if began > moment else Outcome.INFO
                known.append(replace(write, outcome=outcome, version=0))
        return known


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of sending a request once: an answer, or the name of what went wrong."""

    answer: httpx2.Response | None
    error: str
    was_sent: bool = True

    @property
    def is_unclear(self) -> bool:
        """Whether it may have been done, or not."""
        if self.answer is None:
            return self.was_sent
        return self.answer.status_code in _UNCLEAR or self.is_in_progress

    @property
    def is_in_progress(self) -> bool:
        """Whether an earlier attempt with the same key is still at work."""
        return self.answer is not None and "idempotency-in-progress" in self.answer.text


@dataclass(frozen=True, slots=True)
class _Wish:
    """A write that is to be made, and how to send it."""

    incident: str
    fact: Fact
    method: str
    path: str
    body: Mapping[str, object]
    headers: Mapping[str, str]


class Writer:
    """One client. It changes only incidents that it recorded itself, one write after the other.

    Args:
        number: Names it.
        urls: Instances to choose from; after trouble it asks the next, as a client behind a proxy
            would.
        token: Who it is.
        journal: Where its history is kept.
        seed: Its choices can be had again, as far as the service's answers are the same.
        fault: Tells what is going on.
        timeout: Seconds it waits for an answer.
        patience: Seconds it repeats a write; after them the outcome stays unknown.
    """

    def __init__(
        self,
        number: int,
        urls: Sequence[str],
        token: str,
        *,
        journal: Journal,
        seed: int,
        fault: Callable[[], str],
        timeout: float = 2.0,
        patience: float = 90.0,
    ) -> None:
        self._name = f"{seed}-{number}"
        self._luck = random.Random(f"{seed}/{number}")  # noqa: S311 - choices, no secret
        self._journal = journal
        self._fault = fault
        self._patience = patience
        headers = {"Authorization": f"Bearer {token}"}
        self._clients = [
            httpx2.Client(base_url=url, headers=headers, timeout=timeout) for url in urls
        ]
        self._at = number % len(self._clients)
        self._count = 0

    def run(self, stop: threading.Event) -> None:
        """Write until stopped; the write under way is brought to its end."""
        try:
            while not stop.is_set():
                self._one_incident(stop)
        finally:
            for client in self._clients:
                client.close()

    def _one_incident(self, stop: threading.Event) -> None:
        self._count += 1
        title = f"Exercise {self._name}-{self._count}"
        incident = self._settle(self._creation(title))
        for step in range(self._luck.randint(0, 4)):
            if incident is None or stop.is_set():
                return
            incident = self._settle(self._next_wish(incident, step))

    def _creation(self, title: str) -> _Wish:
        severity = self._luck.choice(_SEVERITIES)
        description = f"Recorded under chaos: {title}"
        body = {
            "title": title,
            "description": description,
            "severity": severity,
            "kind": "exercise",
        }
        fact = Fact(Action.CREATE, f"{severity} {description}")
        return _Wish(
            title, fact, "POST", "/api/v1/incidents", body, {"Idempotency-Key": f'"{title}"'}
        )

    def _next_wish(self, incident: Mapping[str, Any], step: int) -> _Wish:
        title = incident["title"]
        path = f"/api/v1/incidents/{incident['id']}"
        if self._luck.random() < 0.4:
            text = f"Changed under chaos, step {step} of {title}"
            etag = f'"inc-{incident["version"]}"'
            return _Wish(
                title,
                Fact(Action.CHANGE, text),
                "PATCH",
                path,
                {"description": text},
                {"If-Match": etag},
            )
        before = incident["status"]
        after = self._luck.choice(sorted(MOVES[before]))
        body = {"to": after}
        if after == "CLOSED":
            body["outcome"] = "fixed"
        elif before in {"RESOLVED", "CLOSED"}:
            body["reason"] = "It came back"
        fact = Fact(Action.MOVE, f"{before}>{after}")
        return _Wish(
            title,
            fact,
            "POST",
            f"{path}/transitions",
            body,
            {"Idempotency-Key": f'"{title}/{step}"'},
        )

    def _settle(self, wish: _Wish) -> Mapping[str, Any] | None:
        """Send until the outcome is known.

        Give the incident as it is then, None if that is not known.
        """
        began = time.monotonic()
        attempts = 0
        fault = ""
        unknown: list[str] = []
        while time.monotonic() < began + self._patience:
            attempts += 1
            attempt = self._send(wish)
            if attempt.answer is not None and not attempt.is_unclear:
                incident, known = self._learn(wish, attempt.answer, unclear=bool(unknown))
                if known is not None:
                    write = Write(
                        subject=wish.incident,
                        fact=wish.fact,
                        outcome=Outcome.FAIL if incident is None else Outcome.OK,
                        version=0 if incident is None else incident["version"],
                        attempts=attempts,
                        unknown=tuple(unknown),
                        resolved=known,
                        fault=fault,
                    )
                    self._journal.ended(write, began)
                    return incident
            if attempt.is_unclear:
                fault = fault or self._fault()
                unknown.append(attempt.error)
            self._at = (self._at + 1) % len(self._clients)
            time.sleep(self._luck.uniform(0.02, 0.2))  # noqa: TID251 - a thread of its own, not a loop
        outcome = Outcome.INFO if unknown else Outcome.FAIL
        self._journal.ended(
            Write(
                subject=wish.incident,
                fact=wish.fact,
                outcome=outcome,
                attempts=attempts,
                unknown=tuple(unknown),
                fault=fault,
            ),
            began,
        )
        return None

    def _send(self, wish: _Wish) -> Attempt:
        try:
            answer = self._clients[self._at].request(
                wish.method, wish.path, json=wish.body, headers=dict(wish.headers)
            )
        except httpx2.TransportError as error:
            attempt = Attempt(None, type(error).__name__, was_sent=not isinstance(error, _NOT_SENT))
        else:
            attempt = Attempt(answer, str(answer.status_code))
        self._journal.answered(f"{wish.fact.action}: {attempt.error}")
        return attempt

    def _learn(
        self, wish: _Wish, answer: httpx2.Response, *, unclear: bool
    ) -> tuple[Mapping[str, Any] | None, str | None]:
        """Take an answer for what it says: the incident, None if nothing was done; and how we know.

        The second is None if we still do not know.
        """
        if answer.status_code == 201 or (answer.status_code == 200 and wish.method == "PATCH"):
            replayed = "idempotency-replayed" in answer.headers
            return answer.json(), ("replayed" if replayed else "repeated") if unclear else ""
        if answer.status_code == 412 and unclear:
            return self._look(wish)
        return None, "repeated" if unclear else ""

    def _look(self, wish: _Wish) -> tuple[Mapping[str, Any] | None, str | None]:
        """Check whether an unexpected version comes from our own attempt without an answer."""
        try:
            answer = self._clients[self._at].get(wish.path)
        except httpx2.TransportError:
            return None, None
        if answer.status_code != 200:
            return None, None
        incident = answer.json()
        return (incident if incident["description"] == wish.fact.content else None), "read"


class Writing:
    """Clients that write in threads of their own until the block ends.

    What is under way is brought to its end.

    Args:
        urls: As for `Writer`.
        token: Who they are.
        journal: Where their history is kept.
        count: How many there are.
        seed: Of their choices.
        fault: Tells what is going on.
        patience: As for `Writer`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        token: str,
        *,
        journal: Journal,
        count: int = 8,
        seed: int = 1,
        fault: Callable[[], str] = str,
        patience: float = 90.0,
    ) -> None:
        self.stop = threading.Event()
        self.problems: list[str] = []
        writers = [
            Writer(number, urls, token, journal=journal, seed=seed, fault=fault, patience=patience)
            for number in range(count)
        ]
        self._threads = [
            threading.Thread(target=self._work, args=(it,), daemon=True) for it in writers
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(120)
        if stuck := sum(thread.is_alive() for thread in self._threads):
            self.problems.append(f"{stuck} clients did not end")

    def _work(self, writer: Writer) -> None:
        try:
            writer.run(self.stop)
        except Exception as error:  # noqa: BLE001 - a client that broke must be reported, not lost with its thread
            self.problems.append(f"a client broke: {error!r}")
