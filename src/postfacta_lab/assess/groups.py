"""Checks as functions: which ids a function answers, and what it needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .model import Verdict

if TYPE_CHECKING:
    from .bench import Bench

__all__ = ["GROUPS", "Group", "Need", "check", "group"]

Need = Literal["read", "write", "database", "auth", "metrics", "project", "proc"]
_Verdicts = Verdict | Mapping[str, Verdict]
_Check = Callable[["Bench"], Awaitable[_Verdicts]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A function with the checks that it answers. `fresh` ones get an instance that nothing was done to."""

    ids: tuple[str, ...]
    run: _Check
    needs: tuple[Need, ...] = ()
    fresh: bool = False
    quick: bool = True
    deployed: bool = False
    own: Mapping[str, str] | None = None


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
    return group(name, own={"title": title, "item": item, "remedy": remedy, "page": page})
