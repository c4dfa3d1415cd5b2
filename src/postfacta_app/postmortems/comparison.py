"""A readable diff of two revisions, by section and line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from typing import Final

from .content import Content
from .form import SECTIONS, label, shown

__all__ = ["Line", "Mark", "SectionDifference", "compare"]

_MOST_LINES: Final = 500  # A longer section is shown whole, before and after: matching takes quadratic time.


class Mark(StrEnum):
    """Whether a line was kept, removed or added."""

    KEPT = "kept"
    REMOVED = "removed"
    ADDED = "added"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of either revision."""

    mark: Mark
    text: str


@dataclass(frozen=True, slots=True)
class SectionDifference:
    """A section that differs, with its lines."""

    section: str
    title: str
    lines: Sequence[Line]


def compare(before: Content, after: Content) -> Sequence[SectionDifference]:
    differing: list[SectionDifference] = []
    for section, title in SECTIONS.items():
        old, new = _lines(section, before), _lines(section, after)
        if old != new:
            differing.append(SectionDifference(section, title, list(_matched(old, new))))
    return differing


def _lines(section: str, content: Content) -> Sequence[str]:
    lines: list[str] = []
    for name, text in shown(section, content).items():
        if text:
            lines += text.split("\n") if name == section else f"{label(name)}: {text}".split("\n")
    return lines


def _matched(old: Sequence[str], new: Sequence[str]) -> Iterator[Line]:
    steps: Sequence[tuple[str, int, int, int, int]] = [("replace", 0, len(old), 0, len(new))]
    if max(len(old), len(new)) <= _MOST_LINES:
        steps = SequenceMatcher(None, old, new).get_opcodes()
    for tag, i1, i2, j1, j2 in steps:
        if tag == "equal":
            yield from (Line(Mark.KEPT, text) for text in old[i1:i2])
        else:
            yield from (Line(Mark.REMOVED, text) for text in old[i1:i2])
            yield from (Line(Mark.ADDED, text) for text in new[j1:j2])
