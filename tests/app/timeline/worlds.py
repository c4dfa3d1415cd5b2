"""Facts as hypothesis makes them.

Few sources, few instants, and edits that aim at what is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

from hypothesis import strategies as st
from pydantic import JsonValue

from postfacta_app.signals.model import Precision, micros
from postfacta_app.timeline.model import (
    Annotation,
    Edit,
    Entry,
    Facts,
    Milestone,
    Op,
    Signal,
    StatusChange,
    moment,
)

__all__ = [
    "LATER", "NOON", "SOURCES", "an_edit", "attach", "attached_only", "edit", "ids", "in_another_zone", "keys", "names",
    "offsets", "signals", "times", "with_edits", "worlds",
]  # fmt: skip

NOON = micros(datetime(2026, 2, 7, 12, 0, tzinfo=UTC))
LATER = 1_000_000  # A stamp after all of a world.
SOURCES = ("deploy", "prometheus", "manual/INC-1")
KINDS = (
    "change",
    "alert_firing",
    "page",
    "metric",
    "log",
    "action",
    "note",
    "alert_resolved",
    "other",
)
_SECOND = 1_000_000

# Few of them, so that ties are common; on both sides of a minute and of an hour.
times = st.sampled_from(
    [NOON + it * _SECOND // 2 for it in (0, 1, 58, 59, 60, 61, 119, 120, 7199, 7200, -1, -7200)]
)
stamps = st.integers(1, 6)
precisions = st.sampled_from(Precision)
offsets = st.sampled_from(
    [-7_200_000, -60_000, -30_000, -500, 500, 1_000, 29_500, 30_000, 45_000, 60_000]
)
ids = st.uuids(version=4)


def edit(
    op: Op,
    at: int,
    identity: UUID,
    *,
    value: Mapping[str, JsonValue] | None = None,
    **target: object,
) -> Edit:
    """Make an edit."""
    return Edit(id=identity, at=at, op=op, value=value, **target)  # type: ignore[arg-type] # its own fields


def attach(signal: Signal, at: int, identity: UUID, op: Op = Op.ATTACH) -> Edit:
    """Make the edit that attaches a signal, or detaches it."""
    return Edit(id=identity, at=at, op=op, signal_id=signal.signal_id)


@st.composite
def signals(draw: st.DrawFn, external_id: str, source: str = "") -> Signal:
    """Make a signal."""
    return Signal(
        signal_id=draw(ids),
        source=source or draw(st.sampled_from(SOURCES)),
        external_id=external_id,
        kind=draw(st.sampled_from(KINDS)),
        occurred_at=draw(times),
        precision=draw(precisions),
        title=draw(st.sampled_from(["Deploy", "Latency", "Zürich"])),
        content_sha256=draw(st.sampled_from(["aa", "bb"])) * 32,
        sequence=draw(st.none() | st.sampled_from(["1", "2", "10"])),
        known_at=draw(st.none() | times),
        received_at=draw(times),
        time_basis="event",
        services=draw(st.sampled_from([(), ("checkout",), ("a", "b")])),
        links=draw(st.sampled_from([(), ({"url": "https://x.example"},)])),
        conflicts=draw(st.integers(0, 2)),
    )


@st.composite
def an_edit(
    draw: st.DrawFn,
    targets: Sequence[tuple[str, str]],
    of: Sequence[Signal],
    at: st.SearchStrategy[int] = stamps,
) -> Edit:
    """Make an edit that aims at one of these, nine times out of ten."""
    ops = [op for op in Op if of or op not in {Op.ATTACH, Op.DETACH}]
    op, when, identity = draw(st.sampled_from(ops)), draw(at), draw(ids)
    if op in {Op.ATTACH, Op.DETACH}:
        return attach(draw(st.sampled_from(of)), when, identity, op)
    if op is Op.CLOCK_OFFSET:
        source = draw(st.sampled_from(SOURCES))
        return edit(op, when, identity, source=source, value={"ms": draw(st.just(0) | offsets)})
    if op is Op.MILESTONE:
        name = draw(st.sampled_from(Milestone))
        return edit(op, when, identity, value={"name": name, **draw(_instants(st.none() | times))})
    values = {
        Op.SET_TIME: st.none() | _instants(times),
        Op.SET_TITLE: st.none() | st.sampled_from([{"title": "Renamed"}, {"title": "Deploy"}]),
    }
    missed = draw(st.integers(0, 9)) == 0 or not targets
    source, external_id = ("nobody", "nothing") if missed else draw(st.sampled_from(targets))
    value = draw(values.get(op, st.none()))
    return edit(op, when, identity, source=source, external_id=external_id, value=value)


@st.composite
def _instants(draw: st.DrawFn, at: st.SearchStrategy[int | None]) -> dict[str, JsonValue]:
    when = draw(at)
    text = None if when is None else moment(when).isoformat()
    return {"at": text, "precision": draw(precisions).value}


@st.composite
def worlds(draw: st.DrawFn) -> Facts:
    """Make the facts of an incident: a few signals, moves, remarks, and edits of them all."""
    found = [draw(signals(f"s{n}")) for n in range(draw(st.integers(1, 5)))]
    changes = [
        StatusChange(
            id=draw(ids), at=draw(stamps), from_status="OPEN" if n else None,
            to_status=("OPEN", "RESOLVED")[n], occurred_at=draw(times),
        )
        for n in range(draw(st.integers(0, 2)))
    ]  # fmt: skip
    notes = [note for _ in range(draw(st.integers(0, 2))) for note in draw(_chains())]
    targets = [
        *((it.source, it.external_id) for it in found),
        *(("postfacta", f"status:{it.id}") for it in changes),
        *(("human", f"annotation:{it.root}") for it in notes),
    ]
    attached = [attach(it, draw(st.integers(0, 3)), draw(ids)) for it in found]
    return Facts(
        found, changes, notes, attached + draw(st.lists(an_edit(targets, found), max_size=10))
    )


@st.composite
def _chains(draw: st.DrawFn) -> list[Annotation]:
    root, occurred_at, at = draw(ids), draw(st.none() | times), draw(stamps)
    first = Annotation(
        id=root, root=root, at=at, kind="note", body=draw(_words), occurred_at=occurred_at,
        precision=draw(st.sampled_from(Precision)),
    )  # fmt: skip
    later = [
        replace(
            first,
            id=draw(ids),
            at=at + n,
            body=draw(_words),
            retracted=draw(st.integers(0, 3)) == 0,
        )
        for n in range(1, draw(st.integers(1, 3)))
    ]
    return [first, *later]


_words = st.sampled_from(["", "Rolled back", "Rolled back\nat once", "Paged"])


def with_edits(facts: Facts, *edits: Edit) -> Facts:
    """Add edits."""
    return replace(facts, edits=[*facts.edits, *edits])


def attached_only(facts: Facts) -> Facts:
    """Take away what people changed afterwards."""
    first = {
        attached.signal_id: attached
        for attached in reversed(facts.edits)
        if attached.op is Op.ATTACH
    }
    notes = [note for note in facts.annotations if note.id == note.root]
    return replace(facts, edits=list(first.values()), annotations=notes)


def in_another_zone(facts: Facts, hours: float) -> Facts:
    """Write all times of edits with another offset from UTC."""
    zone = timezone(timedelta(hours=hours))

    def moved(value: Mapping[str, JsonValue] | None) -> Mapping[str, JsonValue] | None:
        if value is None or not isinstance(value.get("at"), str):
            return value
        return {
            **value,
            "at": datetime.fromisoformat(str(value["at"])).astimezone(zone).isoformat(),
        }

    return replace(facts, edits=[replace(it, value=moved(it.value)) for it in facts.edits])


def names(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Name entries in their order."""
    return [(entry.source, entry.id) for entry in entries]


def keys(entries: Sequence[Entry]) -> Iterator[tuple[object, ...]]:
    """Return the parts of each entry that do not depend on its neighbours."""
    return (
        (it.source, it.id, it.t, it.p, it.title, it.sha, it.pinned, it.hidden) for it in entries
    )
