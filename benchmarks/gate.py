"""Fail if `harden` has become much dearer, or leaves garbage for the cyclic collector.

Microseconds say nothing on a machine that is not known. So the unit is a fixed piece of Python, which takes turns with
the hardened application in the same process; a busy machine slows both alike. One too slow result may still be the
machine's mood, so it is measured again: a stack that is dearer is so every time.

    python -m benchmarks.gate            # about 2 seconds; ends with 1 if it fails
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.bench_asgi import serve
from benchmarks.rounds import Work, cyclic_objects, interleaved
from benchmarks.variants import variants
from postfacta_core.asgi._types import ASGIApp, Receive, Scope, Send

__all__ = ["BUDGET", "ROOM", "Verdict", "judge", "main", "plain", "record_nothing", "stack"]

BUDGET = 4.2
"""What a hardened request costs, in units of the reference, on CPython 3.11: 3.9 to 4.0 on a machine that others
used. After a speed-up, lower it."""

ROOM = 1.25
"""So much over the budget is still taken for noise; half as much again is not."""

_ROUNDS, _REQUESTS, _UNITS = 25, 60, 400
_TRIES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was measured.

    Attributes:
        ratio: CPU time of a request, in units of the reference.
        cyclic_objects: What a request leaves that only the cyclic collector can free.
        budget: What a request may cost.
    """

    ratio: float
    cyclic_objects: float
    budget: float = BUDGET

    @property
    def is_dear(self) -> bool:
        """Whether a request costs more than the budget and its room."""
        return self.ratio > self.budget * ROOM

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        # One stray object in a thousand requests may be the event loop's.
        return not self.is_dear and self.cyclic_objects < 0.01

    def __str__(self) -> str:
        return (
            f"{'passed' if self.passed else 'FAILED'}: a hardened request costs {self.ratio:.2f} units, "
            f"{self.ratio / self.budget:.0%} of the budget of {self.budget:g} ({ROOM:.0%} fails); it leaves "
            f"{self.cyclic_objects:.3f} objects for the cyclic collector (0.01 fails)"
            f"{'; lower the budget, or it guards nothing' if self.ratio < 0.8 * self.budget else ''}"
        )


def judge(make: Callable[[], ASGIApp], *, budget: float = BUDGET) -> Verdict:
    """Measure an application, again if it seems too dear, and keep the best.

    Args:
        make: Makes the application, in a running loop, anew for each measurement.
        budget: What a request may cost.
    """
    best = asyncio.run(_measure(make, budget))
    for _ in range(_TRIES - 1):
        if not best.is_dear:
            break
        best = min(best, asyncio.run(_measure(make, budget)), key=lambda verdict: verdict.ratio)
    return best


async def _measure(make: Callable[[], ASGIApp], budget: float) -> Verdict:
    request = partial(serve, make())
    await request(200)
    works: dict[str, Work] = {"request": request, "unit": _reference}
    times = await interleaved(works, _ROUNDS, {"request": _REQUESTS, "unit": _UNITS})
    # The least of each is what it takes when nothing interferes.
    ratio = min(times["request"]) / min(times["unit"])
    return Verdict(ratio=ratio, cyclic_objects=await cyclic_objects(request, 1000), budget=budget)


async def _reference(repeats: int) -> None:
    """Do something like what a stack does: calls, awaits, small objects. A change of it moves the budget."""
    for number in range(repeats):
        headers = [(f"x-{index}".encode(), b"value") for index in range(4)]
        await _layer({"number": number, "headers": headers}, 4)


async def _layer(scope: dict[str, object], depth: int) -> None:
    if depth:
        await _layer({**scope, "depth": depth}, depth - 1)
    else:
        json.dumps({"ok": True, "keys": list(scope)[:2]})


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with as little as possible, so that what is measured is what stands around."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def stack() -> ASGIApp:
    """Make what is judged: all of `harden`, each request logged, around the least application."""
    return variants(plain)["harden, no SDK"]


def record_nothing() -> None:
    """Format each log line, and drop it."""
    logging.basicConfig(level=logging.INFO, handlers=[logging.NullHandler()])


def main(make: Callable[[], ASGIApp] = stack, *, budget: float = BUDGET) -> None:
    """Judge, say so, and end with 1 if it fails."""
    record_nothing()
    verdict = judge(make, budget=budget)
    print(verdict)  # noqa: T201 - its job
    sys.exit(not verdict.passed)


if __name__ == "__main__":
    main()
