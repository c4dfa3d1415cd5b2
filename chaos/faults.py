"""What is done to a stack at random, one fault after the other, and how long each took to heal."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import httpx2

from chaos.processes import Instance
from chaos.stack import Stack
from postfacta_lab.engine.processes import wait_until

__all__ = ["FAULTS", "Fault", "Tormentor"]

_MOST_RECOVERY = 90.0  # seconds; what takes longer is a failure of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault that was caused; times are seconds since the start of the run.

    Attributes:
        kind: What was done.
        victim: To which part.
        began: When.
        healed: When the cause was gone: the part ran again.
        recovered: When every instance answered a read again, counted from there.
        note: What was odd, such as an exit code.
    """

    kind: str
    victim: str
    began: float
    healed: float
    recovered: float
    note: str = ""


class Tormentor:
    """Causes faults on a stack.

    Args:
        stack: The victim.
        seed: The choices can be had again.
        kinds: What may be done; everything without any.
    """

    def __init__(self, stack: Stack, *, seed: int, kinds: Sequence[str] = ()) -> None:
        self._stack = stack
        self._kinds = list(kinds or FAULTS)
        self._luck = random.Random(f"{seed}/faults")  # noqa: S311 - choices, no secret
        self._began = time.monotonic()
        self._deck: list[str] = []
        self.faults: list[Fault] = []
        self.current = ""

    def torment(self, count: int, *, stop: threading.Event) -> None:
        """Cause faults, with a moment of rest after each."""
        for _ in range(count):
            if stop.wait(self._luck.uniform(0.2, 1.0)):
                return
            self._one(self._next())

    def _next(self) -> str:
        # A shuffled deck and not dice, and one of each kind on top of the first: a short run is
        # varied, too.
        if not self._deck:
            self._deck = [kind for kind in self._kinds for _ in range(FAULTS[kind].cards)]
            self._luck.shuffle(self._deck)
            if not self.faults:
                self._deck += self._luck.sample(self._kinds, k=len(self._kinds))
        return self._deck.pop()

    def _one(self, kind: str) -> None:
        victim = self._luck.choice(self._stack.instances)
        began = self._now()
        self.current = kind
        note = FAULTS[kind].cause(self._stack, victim, self._luck) or ""
        healed = self._now()
        self._wait_recovered()
        name = "postgres" if kind.startswith("PostgreSQL") else victim.name
        self.faults.append(
            Fault(
                kind=kind,
                victim=name,
                began=began,
                healed=healed,
                recovered=self._now() - healed,
                note=note,
            )
        )
        self.current = ""

    def _wait_recovered(self) -> None:
        for instance in self._stack.instances:
            answers = partial(_answers, instance.url, self._stack.token)
            wait_until(answers, f"{instance.name} answers again", within=_MOST_RECOVERY)

    def _now(self) -> float:
        return time.monotonic() - self._began


def _answers(url: str, token: str) -> bool:
    headers = {"Authorization": f"Bearer {token}"}
    try:
        answer = httpx2.get(f"{url}/api/v1/incidents?limit=1", headers=headers, timeout=2.0)
    except httpx2.TransportError:
        return False
    # With an age it is what the instance remembers while it cannot ask its database.
    return answer.status_code == 200 and "age" not in answer.headers


Cause = Callable[[Stack, Instance, random.Random], str | None]


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of fault, and how often it is in the deck."""

    cards: int
    cause: Cause


def _pause(seconds: float) -> None:
    time.sleep(seconds)  # noqa: TID251 - a thread of its own, not a loop


def _kill_instance(stack: Stack, victim: Instance, luck: random.Random) -> None:
    victim.kill()
    victim.start()


def _kill_all_instances(stack: Stack, victim: Instance, luck: random.Random) -> None:
    for instance in stack.instances:
        instance.kill()
    for instance in stack.instances:
        instance.start()


def _terminate_instance(stack: Stack, victim: Instance, luck: random.Random) -> str:
    try:
        code = victim.terminate()
    except TimeoutError as error:
        victim.start()
        return str(error)
    victim.start()
    return "" if code == 0 else f"exit code {code}"


def _freeze_instance(stack: Stack, victim: Instance, luck: random.Random) -> None:
    victim.freeze()
    _pause(
        luck.uniform(0.5, 3.0)
    )  # some longer than a client waits: its request is done after it gave up
    victim.thaw()


def _kill_postgres(stack: Stack, victim: Instance, luck: random.Random) -> None:
    stack.postgres.kill()
    stack.postgres.start()


def _stop_postgres(stack: Stack, victim: Instance, luck: random.Random) -> None:
    stack.postgres.stop()
    stack.postgres.start()


def _freeze_postgres(stack: Stack, victim: Instance, luck: random.Random) -> None:
    stack.postgres.freeze()
    _pause(luck.uniform(0.5, 4.0))
    stack.postgres.thaw()


def _kill_both(stack: Stack, victim: Instance, luck: random.Random) -> None:
    stack.postgres.kill()
    victim.kill()
    victim.start()
    stack.postgres.start()


FAULTS: Mapping[str, _Kind] = {
    "instance SIGKILL": _Kind(3, _kill_instance),
    "instance SIGTERM": _Kind(2, _terminate_instance),
    "instance frozen": _Kind(2, _freeze_instance),
    "all instances SIGKILL": _Kind(1, _kill_all_instances),
    "PostgreSQL SIGKILL": _Kind(4, _kill_postgres),
    "PostgreSQL fast stop": _Kind(2, _stop_postgres),
    "PostgreSQL frozen": _Kind(2, _freeze_postgres),
    "instance and PostgreSQL SIGKILL": _Kind(1, _kill_both),
}
"""What can be done, and how many cards of the deck are of each kind."""
