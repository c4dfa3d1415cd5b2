"""The history of an incident, newest first: edits, revisions and the audit log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final

from pydantic import JsonValue

from ..identity.model import AuditEntry
from ..timeline.edits import ShownEdit
from ..timeline.model import Op, Precision, micros
from ..timeline.view import stamp
from ..web.body import parse_time
from .model import RevisionSummary

__all__ = ["MOST", "Event", "Source", "merge", "of_audit", "of_edits", "of_revisions"]

_UUID: Final = re.compile(r"\b([0-9a-f]{8})(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.ASCII)

MOST: Final = 200
"""The most records of each kind that one page reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One action in the history.

    Attributes:
        kind: `timeline`, `post-mortem` or `audit`.
        what: A description of the action.
        why: The given reason or message.
        rev: The resulting revision.
    """

    at: datetime
    actor: str
    kind: str
    what: str
    why: str | None = None
    rev: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Events of one kind, and the instant back to which they are complete; None means all of them."""

    events: Sequence[Event]
    since: datetime | None


def merge(sources: Iterable[Source]) -> tuple[Sequence[Event], datetime | None]:
    """Merge the events as far back as all kinds are complete; also return where the next page begins."""
    sources = list(sources)
    horizon = max((it.since for it in sources if it.since is not None), default=None)
    events = [it for source in sources for it in source.events if horizon is None or it.at > horizon]
    before = None if horizon is None else horizon + timedelta(microseconds=1)
    return sorted(events, key=lambda it: (it.at, it.rev or 0), reverse=True), before


# Descriptions


_DONE: Final[Mapping[Op, str]] = {
    Op.ATTACH: "Attached",
    Op.DETACH: "Detached",
    Op.SET_TIME: "Set the time of",
    Op.SET_TITLE: "Renamed",
    Op.CLOCK_OFFSET: "Shifted the clock of",
    Op.MILESTONE: "Set the milestone",
    Op.HIDE: "Hid",
    Op.UNHIDE: "Unhid",
    Op.PIN: "Pinned",
    Op.UNPIN: "Unpinned",
}


def of_edits(edits: Sequence[ShownEdit], titles: Mapping[tuple[str, str], str]) -> Sequence[Event]:
    """Return the edits of a timeline as events; signals attached together are one event.

    Args:
        edits: Newest first.
        titles: The original title of each entry; entries without one are named by id.
    """
    events: list[Event] = []
    for (at, op, actor, why), group in groupby(edits, lambda it: (it.at, it.op, it.actor, it.reason)):
        together = list(group)
        for edit in together[:1] if op in {Op.ATTACH, Op.DETACH} else together:
            words = _edited(edit, len(together), titles)
            events.append(Event(at=at, actor=actor, kind="timeline", what=words, why=why))
    return events


def _edited(edit: ShownEdit, count: int, titles: Mapping[tuple[str, str], str]) -> str:
    value: Mapping[str, JsonValue] = edit.value or {}
    key = (edit.entry.source, edit.entry.id) if edit.entry else ("", "")
    entry = f"“{titles[key]}”" if key in titles else " ".join(key)
    match edit.op:
        case Op.ATTACH | Op.DETACH:
            about = f"{count} {'signal' if count == 1 else 'signals'}"
        case Op.SET_TIME:
            about = f"{entry} to {_when(value) if value else 'the time of its source'}"
        case Op.SET_TITLE:
            about = f"{entry} to “{value['title']}”" if value else f"{entry} to its original title"
        case Op.CLOCK_OFFSET:
            about = f"{edit.source} by {float(str(value['ms'])) / 1000:+g} s"
        case Op.MILESTONE:
            name = str(value["name"]).replace("_", " ")
            about = f"“{name}” to {_when(value) if value.get('at') else 'unknown'}"
        case _:
            about = entry
    return f"{_DONE[edit.op]} {about}"


def _when(value: Mapping[str, JsonValue]) -> str:
    at, precision = parse_time(str(value["at"])), Precision(str(value["precision"]))
    return stamp(micros(at), precision).removesuffix(".000000")


def of_revisions(revisions: Iterable[RevisionSummary]) -> Sequence[Event]:
    """Return the revisions of the post-mortem as events."""
    return [
        Event(
            at=it.at,
            actor=it.author,
            kind="post-mortem",
            what=f"Wrote revision {it.rev}, {it.status.replace('_', ' ')}"
            + (f", from revision {it.restored_from}" if it.restored_from else ""),
            why=it.message,
            rev=it.rev,
        )
        for it in revisions
    ]


def of_audit(entries: Iterable[AuditEntry]) -> Sequence[Event]:
    """Return audit log entries as events, with shortened ids and lists."""
    return [
        Event(
            at=it.at,
            actor=it.actor,
            kind="audit",
            what=_UUID.sub(r"\1", ", ".join([f"{it.action} {it.object}", *_details(it.detail or {})])),
        )
        for it in entries
    ]


def _details(detail: Mapping[str, JsonValue]) -> Iterator[str]:
    for name, value in detail.items():
        if isinstance(value, list):
            yield f"{name}: {len(value)}"
        elif value is not None:
            words = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
            yield f"{name}: {words}"
