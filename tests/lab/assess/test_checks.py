"""Checks judge by what they saw, however long it took: a machine that is slow makes no verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from itertools import count
from typing import Any, cast

import pytest

from postfacta_lab.assess.checks import dependencies, overload
from postfacta_lab.assess.checks.dependencies import pool
from postfacta_lab.assess.checks.overload import limited
from postfacta_lab.assess.model import Outcome
from postfacta_lab.assess.runner import _if_calm  # pyright: ignore[reportPrivateUsage]
from postfacta_lab.assess.spec import Database, Spec
from postfacta_lab.engine.client import Answer


class Bucket:
    """A service that refuses, but for a few requests in the middle: so much time has passed that it lets them in.

    Args:
        trusting: Whether it counts by what X-Forwarded-For says.
    """

    dirty = False

    def __init__(self, *, trusting: bool) -> None:
        self._trusting, self._asked = trusting, 0

    async def read(self, headers: Mapping[str, str] | None = None) -> Answer:
        self._asked += 1
        allowed = self._asked <= 30 or 58 <= self._asked < 64 or (self._trusting and headers is not None)
        return Answer(200) if allowed else Answer(429, {"retry-after": "1"})


@pytest.mark.parametrize(("trusting", "word"), [(False, "pass"), (True, "partial")])
def test_a_limit_is_evaded_only_if_strangers_get_through(trusting: bool, word: str) -> None:  # noqa: FBT001
    verdict = asyncio.run(cast("Any", limited)(Bucket(trusting=trusting)))
    assert verdict.word == word, verdict.evidence


class Pool:
    """A service before a database that is a little slow, of which some answers come too late."""

    def __init__(self, connections: int) -> None:
        self.link, self.opened, self.most = self, connections, connections
        self.spec = Spec(start=("x",), database=Database(env="X", url="x://127.0.0.1:1", max_connections=20))
        self._asked = 0

    async def delay(self, seconds: float) -> None:
        await asyncio.sleep(0)

    async def heal(self) -> None:
        await asyncio.sleep(0)

    def count_anew(self) -> None:
        """Nothing was counted before."""

    async def read(self, patience: float) -> Answer:
        await asyncio.sleep(0.05)
        self._asked += 1
        return Answer(504 if self._asked % 50 == 0 else 200)


@pytest.mark.parametrize(("connections", "outcome"), [(13, Outcome.NOT_RUN), (60, Outcome.MEASURED)])
def test_an_answer_too_late_on_a_busy_machine_fails_no_pool(
    connections: int, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, "_CROWD", 0.2)
    verdict = asyncio.run(cast("Any", pool)(Pool(connections)))
    assert verdict.word == "fail"
    assert _if_calm("DEP-5", verdict, busy=True).outcome is outcome


@pytest.mark.parametrize(("step", "word"), [(1.0, "not run"), (0.01, "fail")])
def test_a_limit_that_was_not_reached_in_time_is_not_missing(
    step: float, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count(0.0, step)
    monkeypatch.setattr(overload, "monotonic", lambda: next(ticks))
    free = Bucket(trusting=True)
    monkeypatch.setattr(free, "read", partial(Bucket.read, free, headers={}))
    assert asyncio.run(cast("Any", limited)(free)).word == word
