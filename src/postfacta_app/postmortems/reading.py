"""What pages of a post-mortem show: entries that changed or are cited, and what differs between revisions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import SequenceMatcher
from typing import Final, Literal

from ..timeline.edits import EntryRef
from ..timeline.model import Entry, moment
from ..timeline.view import anchor, clock
from .content import Content
from .form import SECTIONS, entry_text, label, shown
from .model import ChangedEntry, TimelineChanges

_KINDS: Final = {"added": "added", "moved": "moved", "retitled": "renamed", "removed": "removed"}
MOST: Final = 500
"""The most entries that a page lists or a form offers."""


@dataclass(frozen=True, slots=True)
class Mention:
    """An entry of the timeline in one line."""

    title: str
    typed: str  # its text in a form
    at: datetime | None = None  # when it happened; None if there is no such entry now
    clock: str = ""  # its time of day, to its precision
    place: str | None = None  # its anchor on the incident's page; None if it has none
    how: str = ""  # how it changed, in a word


def headline(changes: TimelineChanges) -> str:
    """Return one line about the changes of the timeline since a revision."""
    kinds = [word for name, word in _KINDS.items() if getattr(changes, name)]
    count = len({(it.source, it.id) for name in _KINDS for it in getattr(changes, name)})
    if not count:
        return "Pins or milestones of the timeline changed since this version"
    return f"{count} {'entry' if count == 1 else 'entries'} {' or '.join(kinds)} since this version"


def changed(changes: TimelineChanges) -> Sequence[Mention]:
    return [
        _mention(it, how=word, is_there=name != "removed")
        for name, word in _KINDS.items()
        for it in getattr(changes, name)
    ]


def names(content: Content) -> Sequence[tuple[str, str]]:
    named: list[EntryRef] = [ref for factor in content.factors for ref in factor.evidence]
    if content.trigger.entry is not None:
        named.append(content.trigger.entry)
    return [(ref.source, ref.id) for ref in named]


def cited(content: Content, entries: Iterable[Entry]) -> Mapping[tuple[str, str], Mention]:
    """Return the cited entries by source and id; those not on the timeline have no time."""
    there = {(it.source, it.id): it for it in entries}
    words = {key: entry_text(*key) for key in names(content)}
    return {key: _mention(there[key]) if key in there else Mention(it, it) for key, it in words.items()}


def mentions(entries: Iterable[Entry]) -> Sequence[Mention]:
    return [_mention(it) for it in entries]


def _mention(entry: Entry | ChangedEntry, *, how: str = "", is_there: bool = True) -> Mention:
    return Mention(
        title=entry.title,
        typed=entry_text(entry.source, entry.id),
        at=moment(entry.t),
        clock=clock(entry.t, entry.p),
        place=anchor(entry.source, entry.id) if is_there else None,
        how=how,
    )


_MOST_LINES: Final = 500  # A longer section is shown whole, before and after: matching takes quadratic time.


@dataclass(frozen=True, slots=True)
class Line:
    """A line of either revision."""

    mark: Literal["kept", "removed", "added"]
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
            yield from (Line("kept", text) for text in old[i1:i2])
        else:
            yield from (Line("removed", text) for text in old[i1:i2])
            yield from (Line("added", text) for text in new[j1:j2])
