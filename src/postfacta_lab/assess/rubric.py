"""The catalogue of checks, read from `rubric.toml`: titles, weights, gates, remedies."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["Entry", "Rubric", "rubric"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A check of the catalogue. `weight` is its part of the item's."""

    id: str
    title: str
    item: str
    weight: float
    does: str
    harden: str
    without: str
    page: str
    category: str = ""
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
        parts: dict[str, int] = {}
        for check in data["checks"].values():
            parts[check["item"]] = parts.get(check["item"], 0) + (2 if "gate" in check else 1)
        entries = {
            name: Entry(
                id=name,
                category=data["categories"].get(name.partition("-")[0], ""),
                weight=data["items"][check["item"]]["weight"]
                * (2 if "gate" in check else 1)
                / parts[check["item"]],
                **{**check, "item": data["items"][check["item"]]["title"]},
            )
            for name, check in data["checks"].items()
        }
        return cls(data["version"], data["categories"], entries)


@cache
def rubric() -> Rubric:
    return Rubric.of(
        tomllib.loads(files("postfacta_lab.assess").joinpath("rubric.toml").read_text(encoding="utf-8"))
    )
