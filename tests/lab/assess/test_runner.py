"""What a busy machine, or a second try, makes of a verdict."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from postfacta_lab.assess.model import CheckResult, Group, Outcome
from postfacta_lab.assess.runner import (
    Options,
    _if_calm,  # pyright: ignore[reportPrivateUsage]
    _of_two,  # pyright: ignore[reportPrivateUsage]
    _Runner,  # pyright: ignore[reportPrivateUsage]
)
from postfacta_lab.assess.spec import Spec
from postfacta_lab.engine.processes import Waited
from tests.lab.assess.test_cli import found

LATE, PASS = CheckResult.within(9, "9 s", full=1, half=3), CheckResult.passes("in time")


def test_a_busy_machine_takes_back_what_was_timed() -> None:
    assert _if_calm("DEP-4", LATE, busy=True).outcome is Outcome.NOT_RUN
    assert _if_calm("DEP-4", LATE, busy=False) == LATE
    assert _if_calm("DEP-4", PASS, busy=True) == PASS
    assert (
        _if_calm("SHUT-4", CheckResult.fails("3 of 6 broke"), busy=True).outcome is Outcome.NOT_RUN
    )
    assert _if_calm("METR-1", CheckResult.fails("counted"), busy=True).word == "fail"


def test_a_busy_machine_does_not_take_back_what_is_sure() -> None:
    ended = CheckResult.fails("it ended", sure=True)
    assert _if_calm("DEP-1", ended, busy=True) == ended


@pytest.mark.parametrize(
    ("second", "word"),
    [
        (LATE, "fail"),
        (PASS, "partial"),
        (CheckResult.scored(0.5, "2 s"), "partial"),
        (CheckResult.not_run("busy"), "fail"),
    ],
)
def test_what_failed_once_is_unsteady(second: CheckResult, word: str) -> None:
    assert _of_two(LATE, second).word == word


class Calm:
    """A bench on which nothing happens."""

    dirty = deployed = False
    is_running = True

    def __init__(self) -> None:
        self.service, self.spec, self.shared = self, Spec(start=("x",)), dict[str, Any]()

    async def start(self, *, deployed: bool) -> None:
        assert not deployed

    async def heal(self) -> None:
        """Nothing is ill."""

    def check_bounds(self) -> None:
        """Nothing fills up."""


@pytest.mark.parametrize(
    ("result", "times"),
    [(LATE, 2), (CheckResult.fails("none was answered", sure=True), 1), (PASS, 1)],
)
def test_what_failed_is_tried_again_unless_it_is_sure(result: CheckResult, times: int) -> None:
    tried: list[Any] = []
    results: list[CheckResult] = []

    async def check(bench: Any) -> CheckResult:
        tried.append(bench)
        return result

    runner = _Runner(cast("Any", Calm()), Options(busy=2), lambda _, result: results.append(result))
    asyncio.run(runner._group(Group(ids=("DEP-4",), run=check)))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    assert (len(tried), [result.repeats for result in results]) == (times, [times - 1])


@pytest.mark.parametrize(("others", "word"), [(0.2, "fail"), (0.9, "not run")])
def test_a_service_that_had_no_processor_is_not_judged_by_time(
    others: float, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tool itself may not have waited for any."""
    monkeypatch.setattr(Waited, "share", 0.0)
    monkeypatch.setattr(Waited, "others_share", others)
    results: list[CheckResult] = []

    async def check(bench: Any) -> CheckResult:
        return LATE

    runner = _Runner(cast("Any", Calm()), Options(), lambda _, result: results.append(result))
    asyncio.run(runner._group(Group(ids=("DEP-4",), run=check)))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    assert [result.word for result in results] == [word]


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        ((1000, 900, 10), (1200, 910, 30), 0.85),  # of 200 ticks, 10 idle and 20 ours
        ((1000, 900, 10), (1200, 1000, 110), 0.0),
        ((1000, 900, 50), (1200, 1000, 10), 0.5),  # what was ours ended elsewhere
        ((0, 0, 0), (0, 0, 0), 0.0),
    ],
)
def test_others_had_what_was_neither_idle_nor_ours(
    before: tuple[int, ...], after: tuple[int, ...], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter((before, after))
    monkeypatch.setattr("postfacta_lab.engine.processes._ticks", lambda: next(ticks))
    assert Waited().others_share == pytest.approx(share)


def test_what_does_not_apply_has_its_word() -> None:
    words = {
        check["id"]: check["word"]
        for check in found(SECU_3=CheckResult.not_applicable("no [auth]"))["checks"]
    }
    assert words["SECU-3"] == "not applicable"
