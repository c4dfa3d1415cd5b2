"""Decide what an error budget allows.

A policy's levels, read strictly, and the gate for deployments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Final

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
    objectives: tuple[
        str, ...
    ]  # Those of the service whose budgets count; the worst of them decides.
    levels: tuple[Level, ...]  # From the best down; the last holds for whatever is left.


def judge(policy: BudgetPolicy, statuses: Sequence[SloStatus]) -> tuple[Level, list[str]]:
    """Return the level of the worst objective, and a sentence about each, this one first.

    The worst is one that is exhausted, else one that is unknown, else the one with the least left.
    """
    by_name = {one.slo: one for one in statuses if one.service == policy.service}
    seen = [_see(policy, name, by_name.get(name)) for name in policy.objectives]
    seen.sort(key=lambda one: (-_STRICTNESS.index(one[0].gate), one[1]))
    return seen[0][0], [sentence for _, _, sentence in seen]


def _see(policy: BudgetPolicy, name: str, one: SloStatus | None) -> tuple[Level, float, str]:
    """Return the level of one objective, the share that is left of its budget, and a sentence."""
    if one is None or not one.is_known:
        why = "nothing of it is recorded" if one is None else "there was nothing to judge"
        if one is not None and one.coverage < ENOUGH:
            why = f"{one.coverage:.0%} of the window is recorded, and {ENOUGH:.0%} of it is needed"
        return NO_DATA, 0.0, f"{name}: {why}"
    share = round(one.remaining, _DIGITS)
    # Nothing left is never above a floor.
    level = next(
        one for one in policy.levels if one.floor is None or (share >= one.floor and share > 0)
    )
    return level, share, f"{name}: {share:.1%} of the budget is left, {level.name}"


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
    levels = [_level(one) for one in node.children("levels")]
    node.end()
    known = tuple(level for level in levels if level)
    if not faults:
        _check(node, known)
    refuse(faults)
    return BudgetPolicy(service=service, window=window, objectives=objectives, levels=known)


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


def _level(node: StrictMapping) -> Level | None:
    gates = {"open": Gate.OPEN, "restricted": Gate.RESTRICTED, "closed": Gate.CLOSED}
    said = node.choice("gate", *gates)
    floor = node.take("from", "a share from 0 to 1", lambda it: it is None or _is_share(it))
    name = node.text("name")
    effect = node.text("effect")
    node.end()
    return node.made(Level, name=name, floor=floor, gate=gates.get(said), effect=effect)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
