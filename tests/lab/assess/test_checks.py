"""Checks judge by what they saw, however long it took: a machine that is slow makes no verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from postfacta_lab.assess.checks.overload import limited
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
