"""What a post-mortem's page tells besides its text: what its timeline did since, and the entries that it names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from ..actions.model import Action
from ..timeline.edits import EntryRef
from ..timeline.model import Entry, Precision, moment
from ..timeline.view import anchor, clock, is_narrative
from .content import Content
from .form import entry_text
from .model import TimelineChanges, lacks

__all__ = ["Mention", "changed", "cited", "headline", "missing", "narrative", "offered"]

_KINDS: Final = {
    "added": "arrived",
    "moved": "moved",
    "retitled": "got another title",
    "removed": "went away",
}
_MOST: Final = 500


@dataclass(frozen=True, slots=True)
class Mention:
    """An entry of the timeline in one line.

    Attributes:
        at: When it happened; None if there is no such entry now.
        clock: Its time of day, as closely as it is known.
        place: Where it is on the incident's page; None if it is not there.
        typed: How a form names it.
        how: What has become of it, in a word.
    """

    title: str
    typed: str
    at: datetime | None = None
    clock: str = ""
    place: str | None = None
    how: str = ""


class _Placed(Protocol):
    @property
    def source(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def t(self) -> int: ...
    @property
    def p(self) -> Precision: ...
    @property
    def title(self) -> str: ...


def headline(changes: TimelineChanges) -> str:
    """Say in one line what the timeline did since a revision was written."""
    kinds = [word for name, word in _KINDS.items() if getattr(changes, name)]
    count = len({(it.source, it.id) for name in _KINDS for it in getattr(changes, name)})
    if not count:
        return "Pins or milestones of the timeline changed since this version"
    return f"{count} {'entry' if count == 1 else 'entries'} {' or '.join(kinds)} since this version"


def changed(changes: TimelineChanges) -> Sequence[Mention]:
    """List the entries that the timeline changed, each with what became of it."""
    return [
        _mention(it, how=word, is_there=name != "removed")
        for name, word in _KINDS.items()
        for it in getattr(changes, name)
    ]


def cited(content: Content, entries: Iterable[Entry]) -> Mapping[tuple[str, str], Mention]:
    """Look up the entries that a content names, by source and id; those that are not there have no time."""
    there = {(it.source, it.id): it for it in entries}
    named: list[EntryRef] = [ref for factor in content.factors for ref in factor.evidence]
    if content.trigger.entry is not None:
        named.append(content.trigger.entry)
    mentions: dict[tuple[str, str], Mention] = {}
    for ref in named:
        key = (ref.source, ref.id)
        words = entry_text(*key)
        mentions[key] = _mention(there[key]) if key in there else Mention(words, words)
    return mentions


def narrative(entries: Iterable[Entry]) -> Sequence[Mention]:
    """List the entries that tell the story: what people wrote, did or pinned."""
    return [_mention(it) for it in entries if is_narrative(it)][:_MOST]


def offered(entries: Sequence[Entry]) -> Sequence[Mention]:
    """List the entries that a form offers: all, or only those that tell the story if there are too many."""
    return [_mention(it) for it in entries] if len(entries) <= _MOST else narrative(entries)


def missing(content: Content, actions: Iterable[Action]) -> Sequence[str]:
    """List what is missing before it can be published; see `model.lacks`."""
    return lacks(content, has_owners=all(it.owner for it in actions if it.is_open))


def _mention(entry: _Placed, *, how: str = "", is_there: bool = True) -> Mention:
    return Mention(
        title=entry.title,
        typed=entry_text(entry.source, entry.id),
        at=moment(entry.t),
        clock=clock(entry.t, entry.p),
        place=anchor(entry.source, entry.id) if is_there else None,
        how=how,
    )
