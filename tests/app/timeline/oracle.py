"""What the database works out of kept timelines, worked out once more of the rules, to compare both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from postfacta_app.durations import Basis, Mark
from postfacta_app.postmortems.model import ChangedEntry, PostMortem, Revision, TimelineChanges
from postfacta_app.signals.model import micros
from postfacta_app.timeline.kept import TimelinePage, TimelineQuery
from postfacta_app.timeline.model import Entry, Facts, Milestone
from postfacta_app.timeline.rules import RULES, Timeline, build, sort_key

__all__ = ["changes", "cut", "etag", "is_narrative", "marks", "pattern", "post_mortem", "shows"]

_ENDED = ("RESOLVED", "CLOSED")


def etag(timeline: Timeline) -> str:
    """Return half of the digest, and the number of conflicts, which depends on what came first."""
    return f'"{timeline.digest[:32]}-{sum(it.conflicts for it in timeline.entries)}"'


def shows(query: TimelineQuery, entry: Entry) -> bool:
    """Return whether a query asks for an entry."""
    return (
        (not query.kind or entry.kind in query.kind)
        and (not query.source or entry.source in query.source)
        and (query.pinned is None or entry.pinned == query.pinned)
        and (query.text or "").lower() in entry.title.lower()
    )


def cut(timeline: Timeline, query: TimelineQuery, incident_id: UUID) -> TimelinePage:
    """Return the page that a query asks for."""
    after = query.after(incident_id)
    asked = [
        it
        for it in timeline.entries
        if shows(query, it) and (after is None or sort_key(it) > after)
    ]
    items = asked[: query.limit]
    return TimelinePage(
        digest=timeline.digest,
        why=None,
        rules=RULES,
        milestones=dict(timeline.milestones),
        items=items,
        next_cursor=query.cursor_after(incident_id, items[-1]) if len(asked) > len(items) else None,
    )


_UNITS = (
    "%|°C|[nuµm]?s|sec|seconds?|m|min|minutes?|h|hours?|d|days?|[kKMGT]i?B|B|bytes?"
    "|[kKMG]?bps|[kKMGT]?i?B/s|[rq]ps|[kMG]?Hz|x"
)
_NOUNS = (
    "age|backlog|connections|count|cpu|depth|duration|lag|latency|length|load|memory|rate|restarts"
    "|retries|size|throughput|total|usage|utili[sz]ation|value"
)
_NUMBER = r"-?[0-9]+(?:[.,][0-9]+)*"
_END = r"[.,:;!?]?(?:[ )\]]|\Z)"
_WITH_UNIT = re.compile(rf"(?:\A|(?<=[ (\[<>=~])){_NUMBER}(?= ?(?:{_UNITS}){_END})")
_AFTER_NOUN = re.compile(
    rf"((?:\A|[ (\[])(?:{_NOUNS})(?: ?[:=<>]=? ?| (?:(?:is|at|of|above|over|below|under) )?))"
    rf"({_NUMBER})(?={_END})",
    re.IGNORECASE | re.ASCII,
)


def pattern(title: str) -> str:
    """Return a title without its measures, as `timeline_pattern` does."""

    def measured(found: re.Match[str]) -> str:
        is_status = re.fullmatch("[1-5][0-9]{2}", found[2])
        return found[0] if is_status else found[1] + "#"

    return _AFTER_NOUN.sub(measured, _WITH_UNIT.sub("#", title))


def is_narrative(entry: Entry) -> bool:
    """Return whether an entry belongs to the narrative, from any source."""
    return entry.pinned or entry.kind in {"action", "note", "status"}


def changes(before: Timeline, after: Timeline) -> TimelineChanges:
    """Return the differences; entries of the later timeline, removed ones of the earlier."""
    old = {(entry.source, entry.id): entry for entry in before.entries}
    new = {(entry.source, entry.id): entry for entry in after.entries}
    both = [(old[key], entry) for key, entry in new.items() if key in old]
    return TimelineChanges(
        added=_shown(entry for key, entry in new.items() if key not in old),
        removed=_shown(entry for key, entry in old.items() if key not in new),
        moved=_shown(entry for was, entry in both if (was.t, was.p) != (entry.t, entry.p)),
        retitled=_shown(
            entry for was, entry in both if (was.title, was.sha) != (entry.title, entry.sha)
        ),
    )


def _shown(entries: Iterable[Entry]) -> list[ChangedEntry]:
    names = ChangedEntry.model_fields
    return [ChangedEntry(**{name: getattr(entry, name) for name in names}) for entry in entries]


def post_mortem(revision: Revision, facts: Facts) -> PostMortem:
    """Compare the timeline as of a revision with the present one."""
    at, told = micros(revision.timeline_at), None
    if any(
        it.at > at for family in (facts.edits, facts.changes, facts.annotations) for it in family
    ):
        before, after = build(facts, as_of=at), build(facts)
        if before.digest != after.digest:
            told = changes(before, after)
    return PostMortem(**dict(revision), timeline_changed=told is not None, timeline_changes=told)


def marks(facts: Facts) -> tuple[Mapping[str, Mark], bool]:
    """Return the milestones, and whether the incident is still open; manual entries win.

    The start of the impact and its mitigation are never derived: they must be entered.
    """
    timeline = build(facts, include_hidden=True)
    entries = {(entry.source, entry.id): entry for entry in timeline.entries}
    moves = [
        (change.to_status, entries["postfacta", f"status:{change.id}"])
        for change in sorted(facts.changes, key=lambda change: (change.at, change.id))
    ]
    alerts = [it for it in timeline.entries if it.kind == "alert_firing" and not it.hidden]
    is_open = not moves or moves[-1][0] not in _ENDED
    derived: dict[str, Entry | None] = {
        "declared": moves[0][1] if moves else None,
        Milestone.DETECTED: min(
            [*alerts[:1], *(it for _, it in moves[:1])], key=lambda it: it.t, default=None
        ),
        Milestone.ACKNOWLEDGED: next((it for status, it in moves if status == "IN_PROGRESS"), None),
        Milestone.RESOLVED: None if is_open else _ending(moves),
    }
    found = {
        name: Mark(it.t, it.p, Basis.DERIVED) for name, it in derived.items() if it is not None
    }
    given: dict[str, Mark] = {
        name: Mark(at.t, at.p, Basis.GIVEN) for name, at in timeline.milestones.items()
    }
    return {**found, **given}, is_open


def _ending(moves: Sequence[tuple[str, Entry]]) -> Entry:
    """Return the status change that last ended it; closing a resolved incident is not one."""
    ending = moves[-1][1]
    for status, entry in reversed(moves):
        if status not in _ENDED:
            break
        ending = entry
    return ending
