"""Decide what an error budget allows: a policy's levels, read strictly, and the gate for deployments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from itertools import pairwise
from typing import Final

from ..promise.model import SloError
from ..promise.reading import StrictMapping
from .query import ENOUGH, SloStatus

__all__ = ["NO_DATA", "BudgetPolicy", "Gate", "Level", "Verdict", "judge", "read_policy"]

# A share that is short of a floor by less than this is short by rounding.
_DIGITS: Final = 9


class Gate(StrEnum):
    """The decision about a deployment."""

    OPEN = "open"
    RESTRICTED = "restricted"
    CLOSED = "closed"
    UNKNOWN = "unknown"

    @property
    def code(self) -> int:
        return _CODES[self]


_CODES: Final = {Gate.OPEN: 0, Gate.UNKNOWN: 2, Gate.RESTRICTED: 3, Gate.CLOSED: 4}
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

    def holds(self, share: float) -> bool:
        """Return whether it holds with this share left. Nothing left is never above a floor."""
        return self.floor is None or (share >= self.floor and share > 0)


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

    gate: Gate  # The decision about a deployment.
    level: str  # The level's name, or `no data`.
    effect: str  # What people do then.
    reasons: Sequence[str]  # A sentence about each objective, the one that decides first.


def judge(policy: BudgetPolicy, statuses: Sequence[SloStatus]) -> Verdict:
    """Decide by the worst objective: one exhausted, else one unknown, else the one with the least left."""
    by_name = {one.slo: one for one in statuses if one.service == policy.service}
    seen = sorted(
        (_see(policy, name, by_name.get(name)) for name in policy.objectives),
        key=lambda one: (_STRICTNESS.index(one.level.gate), -one.share),
        reverse=True,
    )
    worst = seen[0].level
    return Verdict(worst.gate, worst.name, worst.effect, [one.sentence for one in seen])


@dataclass(frozen=True, slots=True)
class _Seen:
    level: Level
    share: float
    sentence: str


def _see(policy: BudgetPolicy, name: str, one: SloStatus | None) -> _Seen:
    if one is None or not one.is_known:
        why = "nothing of it is recorded" if one is None else "there was nothing to judge"
        if one is not None and one.coverage < ENOUGH:
            why = f"{one.coverage:.0%} of the window is recorded, and {ENOUGH:.0%} of it is needed"
        return _Seen(NO_DATA, 0.0, f"{name}: {why}")
    share = round(one.remaining, _DIGITS)
    level = next(level for level in policy.levels if level.holds(share))
    return _Seen(level, share, f"{name}: {share:.1%} of the budget is left, {level.name}")


def read_policy(document: object) -> BudgetPolicy:
    """Make a policy from the content of its file."""
    node = StrictMapping(document, "policy")
    reviewed, review_by = _day(node, "reviewed"), _day(node, "review_by")
    if review_by <= reviewed:
        raise node.refuse("review_by", "must be later than reviewed")
    policy = BudgetPolicy(
        owner=node.text("owner"),
        service=node.text("service"),
        reviewed=reviewed,
        review_by=review_by,
        window=node.seconds("window"),
        objectives=_texts(node, "objectives"),
        levels=tuple(_level(StrictMapping(value, path)) for value, path in node.items("levels")),
        incident_share=_share(node, "incident_share"),
        outage_share=_share(node, "outage_share"),
        exempt=_texts(node, "exempt"),
    )
    node.end()
    _check(policy.levels)
    return policy


def _check(levels: Sequence[Level]) -> None:
    """Refuse levels that could never apply, or that are milder than one with more budget left."""
    floors = [level.floor for level in levels]
    if not floors or floors[-1] is not None or None in floors[:-1]:
        why = "the last one, and no other, goes without `from`: it holds for all that is left"
        raise SloError(f"policy.levels: {why}")
    for above, below in pairwise(levels):
        if below.floor is not None and above.floor is not None and below.floor >= above.floor:
            raise SloError(f"policy.levels: {below.name} must begin below {above.name}")
        if _STRICTNESS.index(below.gate) < _STRICTNESS.index(above.gate):
            raise SloError(f"policy.levels: {below.name} must not be milder than {above.name}")


def _level(node: StrictMapping) -> Level:
    gate = node.text("gate")
    if gate not in {Gate.OPEN, Gate.RESTRICTED, Gate.CLOSED}:
        raise node.refuse("gate", f"must be open, restricted or closed, not {gate!r}")
    floor = _share(node, "from") if "from" in node else None
    level = Level(node.text("name"), floor, Gate(gate), node.text("effect"))
    node.end()
    return level


def _texts(node: StrictMapping, key: str) -> tuple[str, ...]:
    texts = tuple(StrictMapping({"": value}, path).text("") for value, path in node.items(key))
    if not texts:
        raise node.refuse(key, "needs at least one entry")
    return texts


def _share(node: StrictMapping, key: str) -> float:
    share = node.number(key)
    if not 0 <= share <= 1:
        raise node.refuse(key, f"must be a share from 0 to 1, not {share:g}")
    return share


def _day(node: StrictMapping, key: str) -> date:
    day = node.raw(key)
    if type(day) is not date:
        raise node.refuse(key, "must be a day, such as 2027-01-31")
    return day
