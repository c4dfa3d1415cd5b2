"""The rules that turn facts into an ordered timeline, independent of their order.

No clock, no row order, no randomness: the same facts give the same digest on every machine.

1. A signal that is attached, a status change, and a note with a time each make one entry.
2. Of the edits of one kind on one target the last counts. An edit that undoes another is of its
   kind.
3. A time is cut to its precision first, then shifted by its source's clock offset. A corrected time
   is not shifted.
4. Entries are sorted by time, coarser precision first, then by kind (causes before symptoms),
   source, sequence and id.
5. The digest covers the entries, the milestones that people set, and the version of these rules.

`build` is the oracle of the same rules in SQL (`migrations/timeline.sql`), which keep timelines.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, TypeVar

from ..signals.model import Precision, micros
from .model import (
    UNDOES,
    Annotation,
    Edit,
    Entry,
    Facts,
    Instant,
    Milestone,
    Op,
    Signal,
    StatusChange,
)

RULES: Final = 2  # the version of these rules; only digests of the same version are comparable

AHEAD: Final = 120_000_000  # two minutes; a clock further ahead is suspect

# At the same instant, causes come before symptoms and recoveries last.
_KINDS: Final = {
    "change": 10,
    "alert_firing": 20,
    "page": 25,
    "metric": 30,
    "log": 30,
    "status": 40,
    "action": 50,
    "note": 60,
    "alert_resolved": 70,
    "other": 80,
}
_CANONICAL: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True)
# What an entry has of its signal, and what a digest has of an entry.
_OF_SIGNAL: Final = (
    "source",
    "kind",
    "title",
    "sequence",
    "known_at",
    "received_at",
    "time_basis",
    "signal_id",
    "services",
    "environment",
    "links",
    "conflicts",
)
_HASHED: Final = ("source", "id", "kind", "t", "p", "title", "sha", "pinned", "hidden")
_TITLE: Final = 200  # The most characters of a note's first line in its title.

Place = tuple[int, int, int, str, bool, str, str]
"""The sort key of an entry: a strict total order, because source and id are unique."""
Last = Mapping[tuple[Op, Hashable], Edit]
"""The effective edit of each kind and target; what undoes another is of its kind."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """A timeline."""

    entries: Sequence[Entry]  # its entries in order
    milestones: Mapping[Milestone, Instant]  # the milestones that people have set
    digest: str  # the SHA-256 of all of this, in hexadecimal


def build(
    facts: Facts,
    *,
    as_of: int | None = None,
    known_as_of: int | None = None,
    include_hidden: bool = False,
) -> Timeline:
    """Build the timeline from all facts of one incident; their order and duplicates do not matter.

    `as_of` limits it to what had been recorded by then, `known_as_of` to what people knew, in
    microseconds.
    """
    last = _last(_until(facts.edits, as_of))
    edited = (_edited(entry, last) for entry in _entries(facts, last, as_of))
    shown = [entry for entry in _unique(edited) if include_hidden or not entry.hidden]
    in_order = _known_by(sorted(shown, key=sort_key), known_as_of)
    times = Counter(entry.t for entry in in_order)
    entries = [replace(entry, tie=True) if times[entry.t] > 1 else entry for entry in in_order]
    instants = {name: _instant(last.get((Op.MILESTONE, name.value))) for name in Milestone}
    milestones = {name: at for name, at in instants.items() if at is not None}
    return Timeline(entries, milestones, _digest(entries, milestones))


def sort_key(entry: Entry) -> Place:
    """Return the sort key of an entry; text is compared by code point."""
    numbered = (entry.sequence is None, entry.sequence or "")
    return entry.t, entry.p.rank, _KINDS[entry.kind], entry.source, *numbered, entry.id


D = TypeVar("D", Edit, StatusChange, Annotation)


def _until(facts: Iterable[D], as_of: int | None) -> list[D]:
    recorded = [fact for fact in facts if as_of is None or fact.at <= as_of]
    return sorted(recorded, key=lambda fact: (fact.at, fact.id.int))


def _last(edits: Iterable[Edit]) -> Last:
    return {(UNDOES.get(edit.op, edit.op), _target(edit)): edit for edit in edits}


def _target(edit: Edit) -> Hashable:
    if edit.op is Op.MILESTONE and edit.value is not None:
        return edit.value["name"]  # type: ignore[return-value] # a string: checked by the table
    if edit.op is Op.CLOCK_OFFSET:
        return edit.source
    return edit.signal_id or (edit.source, edit.external_id)


def _instant(edit: Edit | None) -> Instant | None:
    if edit is None or edit.value is None or edit.value["at"] is None:
        return None
    precision = Precision(str(edit.value["precision"]))
    at = datetime.fromisoformat(str(edit.value["at"]))
    return Instant(precision.floor(micros(at)), precision)


def _entries(facts: Facts, last: Last, as_of: int | None) -> Iterator[Entry]:
    """Make an entry of each fact, as it was before any edit."""
    yield from _of_signals(facts.signals, last)
    for change in _until(facts.changes, as_of):
        yield _of_change(change)
    notes = _until(facts.annotations, as_of)
    recorded = {note.root: note.at for note in reversed(notes)}
    for note in {note.root: note for note in notes}.values():
        if note.occurred_at is not None and not note.retracted:
            when = Instant(note.occurred_at, note.precision)
            yield _of_note(note, when, recorded[note.root])


def _of_signals(signals: Iterable[Signal], last: Last) -> Iterator[Entry]:
    for signal in signals:
        edit = last.get((Op.ATTACH, signal.signal_id))
        if edit is not None and edit.op is Op.ATTACH:
            yield _made(
                Instant(signal.occurred_at, signal.precision),
                id=signal.external_id,
                sha=signal.content_sha256,
                clock_suspect=signal.occurred_at > signal.received_at + AHEAD,
                **{name: getattr(signal, name) for name in _OF_SIGNAL},
            )


def _of_change(change: StatusChange) -> Entry:
    title = "Declared" if change.from_status is None else f"Moved to {_words(change.to_status)}"
    if change.outcome is not None:
        title = f"{title}: {_words(change.outcome)}"
    return _made(
        Instant(change.occurred_at, Precision.EXACT),
        source="postfacta",
        id=f"status:{change.id}",
        kind="status",
        title=title,
        sha=_sha256({"to": change.to_status, "outcome": change.outcome, "reason": change.reason}),
        received_at=change.at,
    )


def _of_note(note: Annotation, when: Instant, recorded_at: int) -> Entry:
    return _made(
        when,
        source="human",
        id=f"annotation:{note.root}",
        kind="note",
        title=note.body.strip().partition("\n")[0][:_TITLE] or note.kind,
        sha=_sha256({"kind": note.kind, "state": note.state, "text": note.body}),
        received_at=recorded_at,
    )


def _words(name: str) -> str:
    return name.replace("_", " ").lower()


def _made(when: Instant, *, title: str, **fields: Any) -> Entry:
    return Entry(
        t=when.p.floor(when.t),
        p=when.p,
        title=title,
        pinned=False,
        hidden=False,
        occurred_at=when.t,
        original_precision=when.p,
        original_title=title,
        **fields,
    )


def _edited(entry: Entry, last: Last) -> Entry:
    target = (entry.source, entry.id)
    offset = last.get((Op.CLOCK_OFFSET, entry.source))
    shift = 0 if offset is None or offset.value is None else int(str(offset.value["ms"])) * 1000
    at = _when(entry, _instant(last.get((Op.SET_TIME, target))), shift)
    retitled = last.get((Op.SET_TITLE, target))
    title = entry.title
    if retitled is not None and retitled.value is not None:
        title = str(retitled.value["title"])
    flags = ((op, last.get((op, target))) for op in (Op.PIN, Op.HIDE))
    pinned, hidden = (edit is not None and edit.op is op for op, edit in flags)
    if (at.t, at.p, title) == (entry.t, entry.p, entry.title) and not (pinned or hidden):
        return entry
    return replace(entry, t=at.t, p=at.p, title=title, pinned=pinned, hidden=hidden)


def _when(entry: Entry, corrected: Instant | None, offset: int) -> Instant:
    """Truncate first, then shift: the reverse would reorder entries within a source."""
    return corrected or Instant(entry.p.floor(entry.occurred_at) + offset, entry.p)


def _unique(entries: Iterable[Entry]) -> Iterable[Entry]:
    return {(entry.source, entry.id): entry for entry in entries}.values()


def _known_by(entries: Sequence[Entry], known_as_of: int | None) -> Sequence[Entry]:
    if known_as_of is None:
        return entries
    learned = [(entry, entry.t if entry.known_at is None else entry.known_at) for entry in entries]
    return [entry for entry, learned_at in learned if learned_at <= known_as_of]


def _digest(entries: Iterable[Entry], milestones: Mapping[Milestone, Instant]) -> str:
    """Hash the canonical JSON entry by entry: a single large text would block other threads."""
    digest = hashlib.sha256(b'{"entries":[')
    comma = b""
    for entry in entries:
        hashed = {name: getattr(entry, name) for name in _HASHED}
        digest.update(comma + _CANONICAL.encode(hashed).encode())
        comma = b","
    instants = {name: {"t": at.t, "p": at.p} for name, at in milestones.items()}
    end = _CANONICAL.encode({"milestones": instants, "rules": RULES}).removeprefix("{")
    digest.update(b"]," + end.encode())
    return digest.hexdigest()


def _sha256(value: object) -> str:
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()
