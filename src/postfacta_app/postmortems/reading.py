"""Entries on a post-mortem's page: those that changed since, and those it cites."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ..actions import Action
from ..timeline.edits import EntryRef
from ..timeline.model import Entry, moment
from ..timeline.view import anchor, clock
from .content import Content
from .form import entry_text
from .model import ChangedEntry, TimelineChanges, lacks

__all__ = ["MOST", "Mention", "changed", "cited", "headline", "mentions", "missing", "names"]

_KINDS: Final = {
    "added": "added",
    "moved": "moved",
    "retitled": "renamed",
    "removed": "removed",
}
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


def missing(content: Content, actions: Iterable[Action]) -> Sequence[str]:
    """List what is missing before it can be published; see `model.lacks`."""
    return lacks(content, has_owners=all(it.owner for it in actions if it.is_open))


def _mention(entry: Entry | ChangedEntry, *, how: str = "", is_there: bool = True) -> Mention:
    return Mention(
        title=entry.title,
        typed=entry_text(entry.source, entry.id),
        at=moment(entry.t),
        clock=clock(entry.t, entry.p),
        place=anchor(entry.source, entry.id) if is_there else None,
        how=how,
    )
