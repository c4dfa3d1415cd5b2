"""Decide what an error budget allows.

A policy's levels, read strictly, and the gate for deployments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Final, NamedTuple

from ..promise.reading import Faults, StrictMapping, refuse
from .query import ENOUGH, SloStatus

# A share that is short of a floor by less than this is short by rounding.
_DIGITS: Final = 9
# What it says beside, for people.
_FOR_PEOPLE: Final = ("owner", "reviewed", "review_by", "incident_share", "outage_share", "exempt")


class Gate(IntEnum):
    """The decision about a deployment, by the exit code that tells it."""

    OPEN = 0
    UNKNOWN = 2
    RESTRICTED = 3
    CLOSED = 4


# What is unknown may be exhausted: a second approver must not pass it on a guess.
_STRICTNESS: Final = (Gate.OPEN, Gate.RESTRICTED, Gate.UNKNOWN, Gate.CLOSED)


@dataclass(frozen=True, slots=True)
class Level:
    """A level of a policy: what applies above a share of the budget."""

    name: str  # Names it.
    # The smallest share with which it holds; with 0, it holds above that. None for the last one.
    floor: float | None
    gate: Gate  # The decision about a deployment.
    effect: str  # What people do then.


# Beside the levels of each policy: what applies while the remaining budget is unknown.
NO_DATA: Final = Level(
    "no data", None, Gate.UNKNOWN, "Find out why nothing is measured, before anything is deployed."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPolicy:
    """What an error budget policy says about deployments."""

    service: str  # Whose budgets.
    window: int  # The seconds that count.
    # Those of the service whose budgets count; the worst of them decides.
    objectives: tuple[str, ...]
    levels: tuple[Level, ...]  # From the best down; the last holds for whatever is left.


def judge(policy: BudgetPolicy, statuses: Sequence[SloStatus]) -> tuple[Level, list[str]]:
    """Return the level of the worst objective, and a sentence about each, this one first.

    The worst is one that is exhausted, else one that is unknown, else the one with the least left.
    """
    by_name = {status.slo: status for status in statuses if status.service == policy.service}
    decisions = [_decision(policy, name, by_name.get(name)) for name in policy.objectives]
    decisions.sort(key=_severity)
    return decisions[0].level, [decision.sentence for decision in decisions]


class _Decision(NamedTuple):
    """What a policy says of one objective."""

    level: Level
    share: float  # What is left of its budget.
    sentence: str


def _severity(decision: _Decision) -> tuple[int, float]:
    """Order decisions: the strictest gate first, then the least that is left."""
    return -_STRICTNESS.index(decision.level.gate), decision.share


def _decision(policy: BudgetPolicy, name: str, status: SloStatus | None) -> _Decision:
    if status is None or not status.is_known:
        return _Decision(NO_DATA, 0.0, f"{name}: {_why_unknown(status)}")
    share = round(status.remaining, _DIGITS)
    # Nothing left is never above a floor.
    level = next(
        level
        for level in policy.levels
        if level.floor is None or (share >= level.floor and share > 0)
    )
    sentence = f"{name}: {share:.1%} of the budget is left, {level.name}"
    return _Decision(level, share, sentence)


def _why_unknown(status: SloStatus | None) -> str:
    if status is None:
        return "nothing of it is recorded"
    if status.coverage < ENOUGH:
        return f"{status.coverage:.0%} of the window is recorded, and {ENOUGH:.0%} of it is needed"
    return "there was nothing to judge"


def read_policy(document: object) -> BudgetPolicy:
    """Make a policy from the content of its file."""
    faults: Faults = {}
    node = StrictMapping(document, "policy", faults)
    node.pass_over(*_FOR_PEOPLE)
    service = node.text("service")
    window = node.seconds("window")
    names = node.listed("objectives")
    if not names.keys:
        node.wrong("objectives", "needs at least one entry")
    objectives = tuple(names.text(place) for place in names.keys)
    read_levels = [_read_level(child) for child in node.children("levels")]
    node.end()
    levels = tuple(level for level in read_levels if level)
    if not faults:
        _check(node, levels)
    refuse(faults)
    return BudgetPolicy(service=service, window=window, objectives=objectives, levels=levels)


def _check(node: StrictMapping, levels: Sequence[Level]) -> None:
    """Refuse levels that could never apply, or that are milder than one with more budget left."""
    floors = [level.floor for level in levels]
    if not floors or floors[-1] is not None or None in floors[:-1]:
        node.wrong(
            "levels",
            "the last one, and no other, goes without `from`: it holds for all that is left",
        )
    for above, below in pairwise(levels):
        if below.floor is not None and above.floor is not None and below.floor >= above.floor:
            node.wrong("levels", f"{below.name} must begin below {above.name}")
        if _STRICTNESS.index(below.gate) < _STRICTNESS.index(above.gate):
            node.wrong("levels", f"{below.name} must not be milder than {above.name}")


def _read_level(node: StrictMapping) -> Level | None:
    gates = {"open": Gate.OPEN, "restricted": Gate.RESTRICTED, "closed": Gate.CLOSED}
    gate = node.choice("gate", *gates)
    floor = node.take(
        "from", "a share from 0 to 1", lambda share: share is None or _is_share(share)
    )
    name = node.text("name")
    effect = node.text("effect")
    node.end()
    return node.build(
        Level,
        name=name,
        floor=floor,
        gate=gates.get(gate),
        effect=effect,
    )


def _is_share(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= 1
