"""Decide what an error budget allows: a policy's levels, read strictly, and the gate for deployments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import IntEnum
from itertools import pairwise
from typing import Any, Final

from ..promise.reading import Faults, StrictMapping, refuse
from .query import ENOUGH, SloStatus

__all__ = ["NO_DATA", "BudgetPolicy", "Gate", "Level", "Verdict", "judge", "read_policy"]

# A share that is short of a floor by less than this is short by rounding.
_DIGITS: Final = 9


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
    """An error budget policy, as agreed by a team."""

    owner: str  # Who decides.
    service: str  # Whose budgets.
    reviewed: date  # When it was last read through.
    review_by: date  # When it must be again.
    window: int  # The seconds that count.
    objectives: tuple[str, ...]  # Those of the service whose budgets count; the worst of them decides.
    levels: tuple[Level, ...]  # From the best down; the last holds for whatever is left.
    incident_share: float  # One incident that spends more than this share of the budget needs a post-mortem.
    # One class of outage that spends more than this in a quarter needs a place in the next plan.
    outage_share: float
    exempt: tuple[str, ...]  # The labels of changes that pass a closed gate.


@dataclass(frozen=True, slots=True)
class Verdict:
    """The policy's decision now."""

    level: Level  # The policy's, or `NO_DATA`.
    reasons: Sequence[str]  # A sentence about each objective, the one that decides first.


def judge(policy: BudgetPolicy, statuses: Sequence[SloStatus]) -> Verdict:
    """Decide by the worst objective: one exhausted, else one unknown, else the one with the least left."""
    by_name = {one.slo: one for one in statuses if one.service == policy.service}
    seen = [_see(policy, name, by_name.get(name)) for name in policy.objectives]
    seen.sort(key=lambda one: (-_STRICTNESS.index(one[0].gate), one[1]))
    return Verdict(seen[0][0], [sentence for _, _, sentence in seen])


def _see(policy: BudgetPolicy, name: str, one: SloStatus | None) -> tuple[Level, float, str]:
    """Return the level that holds for one objective, the share that is left of its budget, and a sentence on it."""
    if one is None or not one.is_known:
        why = "nothing of it is recorded" if one is None else "there was nothing to judge"
        if one is not None and one.coverage < ENOUGH:
            why = f"{one.coverage:.0%} of the window is recorded, and {ENOUGH:.0%} of it is needed"
        return NO_DATA, 0.0, f"{name}: {why}"
    share = round(one.remaining, _DIGITS)
    # Nothing left is never above a floor.
    level = next(one for one in policy.levels if one.floor is None or (share >= one.floor and share > 0))
    return level, share, f"{name}: {share:.1%} of the budget is left, {level.name}"


def read_policy(document: object) -> BudgetPolicy:
    """Make a policy from the content of its file."""
    faults: Faults = {}
    node = StrictMapping(document, "policy", faults)
    fields: dict[str, Any] = {
        "owner": node.text("owner"),
        "service": node.text("service"),
        "reviewed": _day(node, "reviewed"),
        "review_by": _day(node, "review_by"),
        "window": node.seconds("window"),
        "objectives": _texts(node, "objectives"),
        "levels": tuple(_level(one) for one in node.children("levels")),
        "incident_share": _share(node, "incident_share"),
        "outage_share": _share(node, "outage_share"),
        "exempt": _texts(node, "exempt"),
    }
    node.end()
    if not faults and fields["review_by"] <= fields["reviewed"]:
        node.wrong("review_by", "must be later than reviewed")
    if not faults:
        _check(node, fields["levels"])
    refuse(faults)
    return BudgetPolicy(**fields)


def _check(node: StrictMapping, levels: Sequence[Level]) -> None:
    """Refuse levels that could never apply, or that are milder than one with more budget left."""
    floors = [level.floor for level in levels]
    if not floors or floors[-1] is not None or None in floors[:-1]:
        node.wrong("levels", "the last one, and no other, goes without `from`: it holds for all that is left")
    for above, below in pairwise(levels):
        if below.floor is not None and above.floor is not None and below.floor >= above.floor:
            node.wrong("levels", f"{below.name} must begin below {above.name}")
        if _STRICTNESS.index(below.gate) < _STRICTNESS.index(above.gate):
            node.wrong("levels", f"{below.name} must not be milder than {above.name}")


def _level(node: StrictMapping) -> Level | None:
    said = node.text("gate")
    gates = {gate.name.lower(): gate for gate in (Gate.OPEN, Gate.RESTRICTED, Gate.CLOSED)}
    if said not in gates:
        node.wrong("gate", f"must be open, restricted or closed, not {said!r}")
    floor = _share(node, "from") if "from" in node else None
    name, effect = node.text("name"), node.text("effect")
    node.end()
    return node.made(Level, name=name, floor=floor, gate=gates.get(said), effect=effect)


def _texts(node: StrictMapping, key: str) -> tuple[str, ...]:
    items = node.listed(key)
    if not items.keys:
        node.wrong(key, "needs at least one entry")
    return tuple(items.text(place) for place in items.keys)


def _share(node: StrictMapping, key: str) -> float:
    share = node.number(key)
    if not 0 <= share <= 1:
        node.wrong(key, f"must be a share from 0 to 1, not {share:g}")
    return share


def _day(node: StrictMapping, key: str) -> date:
    day = node.raw(key)
    if type(day) is not date:
        node.wrong(key, "must be a day, such as 2027-01-31")
        return date.min
    return day
