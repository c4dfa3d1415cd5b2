"""The checks: what `rubric.toml` says of each, the function that does it, and what that answers."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .bench import Bench

__all__ = ["GROUPS", "Entry", "Group", "Outcome", "Rubric", "Verdict", "check", "group", "rubric"]


class Outcome(StrEnum):
    """Whether a check measured anything, and why not."""

    MEASURED = "measured"
    NOT_RUN = "not run"
    NOT_APPLICABLE = "not applicable"
    DECLARED = "declared"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found: a score in quarters, the evidence in a sentence, numbers for plots; and what it took."""

    outcome: Outcome
    score: float = 0.0
    evidence: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seconds: float = 0.0
    repeats: int = 0

    @classmethod
    def scored(cls, score: float, evidence: str, **facts: Any) -> Verdict:
        """Return what was measured, its score rounded down to quarters, from 0 to 1."""
        return cls(Outcome.MEASURED, max(0, min(4, int(score * 4 + 1e-9))) / 4, evidence, facts)

    @classmethod
    def share(cls, good: int, of: int, evidence: str, **facts: Any) -> Verdict:
        """Return the share of what was good; nothing of nothing is no pass."""
        return cls.scored(good / of if of else 0.0, evidence, **facts)

    @classmethod
    def parts(cls, parts: Mapping[str, bool]) -> Verdict:
        """Return the share of the parts that are there, and name those that are not."""
        missing = [name for name, there in parts.items() if not there]
        said = f"missing: {', '.join(missing)}" if missing else f"found: {', '.join(parts)}"
        return cls.share(len(parts) - len(missing), len(parts), said)

    @classmethod
    def holds(cls, holds: bool, evidence: str, **facts: Any) -> Verdict:  # noqa: FBT001 - it is the verdict
        """Return a pass or a failure."""
        return cls.scored(float(holds), evidence, **facts)

    @classmethod
    def passes(cls, evidence: str) -> Verdict:
        return cls.scored(1.0, evidence)

    @classmethod
    def fails(cls, evidence: str, **facts: Any) -> Verdict:
        return cls.scored(0.0, evidence, **facts)

    @classmethod
    def within(cls, value: float, evidence: str, *, full: float, half: float, sure: bool = False) -> Verdict:
        """Return a pass up to `full`, half the points up to `half`, else a failure."""
        score = 1.0 if value <= full else 0.5 if value <= half else 0.0
        return cls.scored(score, evidence, value=round(value, 3), sure=sure)

    @classmethod
    def not_run(cls, why: str) -> Verdict:
        """Return that this could not be measured here."""
        return cls(Outcome.NOT_RUN, evidence=why)

    @classmethod
    def not_applicable(cls, why: str) -> Verdict:
        """Return that there is nothing to measure, which was itself measured."""
        return cls(Outcome.NOT_APPLICABLE, evidence=why)

    @property
    def sure(self) -> bool:
        """Whether no lack of processor time can have made it, as when a process ended or an answer was wrong."""
        return self.facts.get("sure") is True

    @property
    def word(self) -> str:
        """`pass`, `partial` or `fail` if it was measured; else why it was not."""
        if self.outcome is not Outcome.MEASURED:
            return str(self.outcome)
        return "pass" if self.score == 1 else "partial" if self.score >= 0.5 else "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A check of the catalogue, or of yours. `weight` is its part of the item's."""

    id: str
    title: str
    item: str
    harden: str
    without: str
    page: str
    does: str = ""
    weight: float = 0.0
    category: str = "Your own"
    gate: int | None = None
    timed: bool = False


@dataclass(frozen=True, slots=True)
class Rubric:
    """Entries by id, in the order of the catalogue."""

    version: int
    categories: Mapping[str, str]
    entries: Mapping[str, Entry]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Rubric:
        """Share the weight of each item among its checks; a gate counts twice."""
        parts = {name: 2 if "gate" in check else 1 for name, check in data["checks"].items()}
        whole = Counter[str]()
        for name, check in data["checks"].items():
            whole[check["item"]] += parts[name]
        entries: dict[str, Entry] = {}
        for name, check in data["checks"].items():
            item = data["items"][check["item"]]
            weight = item["weight"] * parts[name] / whole[check["item"]]
            category = data["categories"].get(name.partition("-")[0], "")
            entries[name] = Entry(
                id=name, category=category, weight=weight, **{**check, "item": item["title"]}
            )
        return cls(data["version"], data["categories"], entries)


@cache
def rubric() -> Rubric:
    return Rubric.of(
        tomllib.loads(files("postfacta_lab.assess").joinpath("rubric.toml").read_text(encoding="utf-8"))
    )


_Need = Literal["read", "write", "database", "auth", "metrics", "project", "proc"]
_Check = Callable[["Bench"], Awaitable[Verdict | Mapping[str, Verdict]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A function with the checks that it answers. `fresh` ones get an instance that nothing was done to."""

    ids: tuple[str, ...]
    run: _Check
    needs: tuple[_Need, ...] = ()
    fresh: bool = False
    quick: bool = True
    deployed: bool = False
    own: Entry | None = None


GROUPS: list[Group] = []


def group(*ids: str, **options: Any) -> Callable[[_Check], _Check]:
    """Add a function that answers these checks of the catalogue."""

    def add(run: _Check) -> _Check:
        GROUPS.append(Group(ids=ids, run=run, **options))
        return run

    return add


def check(
    name: str, *, title: str, item: str = "Your own", remedy: str = "", page: str = ""
) -> Callable[[_Check], _Check]:
    """Add a check of your own. It stands beside the grade, and never moves it."""
    return group(name, own=Entry(id=name, title=title, item=item, harden=remedy, without=remedy, page=page))
