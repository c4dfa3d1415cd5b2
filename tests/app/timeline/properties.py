"""What is true of every timeline.

One function for each property of the design, which raises where it is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from uuid import UUID

from hypothesis import assume, strategies as st
from pydantic import JsonValue

from postfacta_app.timeline.kept import TimelineQuery
from postfacta_app.timeline.model import Edit, Entry, Facts, Op, StatusChange, moment
from postfacta_app.timeline.rules import Timeline, build, sort_key
from tests.app.timeline.oracle import cut, etag
from tests.app.timeline.worlds import (
    LATER,
    SOURCES,
    an_edit,
    attach,
    attached_only,
    edit,
    ids,
    in_another_zone,
    names,
    offsets,
    signals,
    times,
    with_edits,
    worlds,
)

__all__ = ["PROPERTIES"]

_place = sort_key  # As it is before a test changes it.
_LAST = UUID(int=2**128 - 1)


def answer(timeline: Timeline) -> object:
    """Give all that is answered, but the digest itself."""
    return timeline.entries, timeline.milestones


def p1_any_order_of_arrival_gives_the_same_digest(data: st.DataObject) -> None:
    facts = data.draw(worlds())
    shuffled = Facts(
        data.draw(st.permutations(facts.signals)),
        data.draw(st.permutations(facts.changes)),
        data.draw(st.permutations(facts.annotations)),
        data.draw(st.permutations(facts.edits)),
    )
    assert build(shuffled).digest == build(facts).digest


def p2_everything_ingested_twice_gives_the_same_digest(data: st.DataObject) -> None:
    facts = data.draw(worlds())
    twice = Facts(
        [*facts.signals] * 2, [*facts.changes] * 2, [*facts.annotations] * 2, [*facts.edits] * 2
    )
    assert build(twice).digest == build(facts).digest


def p3_adjacent_keys_strictly_increase(data: st.DataObject) -> None:
    entries = build(data.draw(worlds()), include_hidden=True).entries
    places = [_place(entry) for entry in entries]
    assert all(one < next_one for one, next_one in pairwise(places))


def p4_an_offset_moves_its_source_alone_and_is_taken_back(data: st.DataObject) -> None:
    facts, source = data.draw(worlds()), data.draw(st.sampled_from(SOURCES))
    plain = with_edits(facts, _offset(source, 0, LATER))
    ms = data.draw(offsets)
    shifted = with_edits(plain, _offset(source, ms, LATER + 1))
    before, after = build(plain, include_hidden=True), build(shifted, include_hidden=True)
    by_hand = _by_hand(facts)
    for was, now in zip(_sorted(before), _sorted(after), strict=True):
        moves = was.source == source and (was.source, was.id) not in by_hand
        assert now.t - was.t == (ms * 1000 if moves else 0)
    for theirs in (True, False):
        one, another = (
            [
                name
                for name in names(it.entries)
                if name not in by_hand and (name[0] == source) is theirs
            ]
            for it in (before, after)
        )
        assert one == another
    assert build(with_edits(shifted, _offset(source, 0, LATER + 2))).digest == build(plain).digest


def p5_mixed_precision_keeps_its_order_under_any_offset(data: st.DataObject) -> None:
    found = [data.draw(signals(f"s{n}", SOURCES[0])) for n in range(data.draw(st.integers(2, 5)))]
    facts = Facts(found, edits=[attach(it, 1, it.signal_id) for it in found])
    shifted = with_edits(facts, _offset(SOURCES[0], data.draw(offsets), 2))
    assert names(build(shifted).entries) == names(build(facts).entries)


def p6_a_late_signal_leaves_the_rest_in_its_order(data: st.DataObject) -> None:
    facts, late = data.draw(worlds()), data.draw(signals("late"))
    with_late = replace(
        with_edits(facts, attach(late, LATER, _LAST)), signals=[*facts.signals, late]
    )
    rest = [name for name in names(build(with_late).entries) if name[1] != "late"]
    assert rest == names(build(facts).entries)


def p7_an_edit_acts_on_one_entry_and_is_undone_completely(data: st.DataObject) -> None:
    facts = data.draw(worlds())
    shown = build(facts).entries
    assume(shown)
    entry = data.draw(st.sampled_from(shown))
    at = data.draw(times)
    when: dict[str, JsonValue] = {"at": moment(at).isoformat(), "precision": "exact"}

    def of_entry(op: Op, value: dict[str, JsonValue] | None = None) -> Edit:
        return Edit(id=_LAST, at=0, op=op, source=entry.source, external_id=entry.id, value=value)

    pairs = [
        (of_entry(Op.UNHIDE), of_entry(Op.HIDE)),
        (of_entry(Op.SET_TIME), of_entry(Op.SET_TIME, when)),
        *(
            (attach(it, 0, _LAST, Op.ATTACH), attach(it, 0, _LAST, Op.DETACH))
            for it in facts.signals
            if it.signal_id == entry.signal_id
        ),
    ]
    undo, do = data.draw(st.sampled_from(pairs))
    plain = with_edits(facts, replace(undo, at=LATER))
    done = with_edits(plain, replace(do, at=LATER + 1))
    others = [name for name in names(build(plain).entries) if name != (entry.source, entry.id)]
    assert [
        name for name in names(build(done).entries) if name != (entry.source, entry.id)
    ] == others
    now = [it for it in build(done).entries if (it.source, it.id) == (entry.source, entry.id)]
    assert [it.t for it in now] == ([at] if do.op is Op.SET_TIME else [])
    assert build(with_edits(done, replace(undo, at=LATER + 2))).digest == build(plain).digest


def p8_a_past_view_stays_whatever_is_added(data: st.DataObject) -> None:
    facts, seen_at = data.draw(worlds()), data.draw(st.integers(0, 20))
    targets = names(build(facts, include_hidden=True).entries)
    after = st.integers(seen_at + 1, seen_at + 5)
    edits = data.draw(st.lists(an_edit(targets, facts.signals, after), min_size=1, max_size=5))
    known = replace(
        facts,
        changes=[it for it in facts.changes if it.at <= seen_at],
        annotations=[it for it in facts.annotations if it.at <= seen_at],
        edits=[it for it in facts.edits if it.at <= seen_at],
    )
    move = StatusChange(
        id=data.draw(ids),
        at=data.draw(after),
        from_status="OPEN",
        to_status="RESOLVED",
        occurred_at=data.draw(times),
    )
    notes = [
        replace(it, id=data.draw(ids), at=seen_at + 1, body="Later")
        for it in known.annotations
        if it.id == it.root
    ]
    more = Facts(
        facts.signals, [*known.changes, move], [*known.annotations, *notes], [*known.edits, *edits]
    )
    assert build(more, as_of=seen_at).digest == build(known).digest
    assert build(facts, as_of=seen_at).digest == build(known).digest


def p9_an_earlier_view_is_a_part_of_a_later_one(data: st.DataObject) -> None:
    facts = attached_only(data.draw(worlds()))
    early, late = sorted(data.draw(st.tuples(*[st.integers(0, 14)] * 2)))
    assert _is_part(
        names(build(facts, as_of=early).entries), names(build(facts, as_of=late).entries)
    )


def p10_pages_give_every_entry_once_also_while_others_come(data: st.DataObject) -> None:
    facts, of_incident = data.draw(worlds()), UUID(int=7)
    start = names(build(facts).entries)
    seen: list[tuple[str, str]] = []
    asked, number = (
        TimelineQuery(as_of=None, known_as_of=None, limit=data.draw(st.integers(1, 3))),
        0,
    )
    while True:
        page = cut(build(facts), asked, of_incident)
        seen += names(page.items)
        if page.next_cursor is None:
            break
        asked = asked.model_copy(update={"cursor": page.next_cursor})
        if number < 3 and data.draw(st.booleans()):
            number += 1
            late = data.draw(signals(f"late{number}"))
            facts = replace(
                with_edits(facts, attach(late, LATER, late.signal_id)),
                signals=[*facts.signals, late],
            )
    assert len(seen) == len(set(seen))
    assert [name for name in seen if name in start] == start


def p11_what_was_known_is_a_part_of_the_timeline(data: st.DataObject) -> None:
    facts, seen_at = data.draw(worlds()), data.draw(times)
    known, whole = build(facts, known_as_of=seen_at), build(facts)
    assert _is_part(names(known.entries), names(whole.entries))
    left_out = set(names(whole.entries)) - set(names(known.entries))
    for entry in whole.entries:
        knew = entry.t if entry.known_at is None else entry.known_at
        assert ((entry.source, entry.id) in left_out) == (knew > seen_at)


def p12_digests_are_equal_exactly_if_answers_are(data: st.DataObject) -> None:
    facts = data.draw(worlds())
    targets = names(build(facts, include_hidden=True).entries)
    other = with_edits(facts, data.draw(an_edit(targets, facts.signals, st.just(LATER))))
    for hidden in (False, True):
        one, another = (build(it, include_hidden=hidden) for it in (facts, other))
        assert (one.digest == another.digest) == (answer(one) == answer(another))
        assert (etag(one) == etag(another)) == (answer(one) == answer(another))


def p13_the_same_instants_in_any_zone_give_the_same_digest(data: st.DataObject) -> None:
    facts, hours = data.draw(worlds()), data.draw(st.sampled_from([-12, -3.5, 1, 5.75, 14]))
    assert build(in_another_zone(facts, hours)).digest == build(facts).digest


def _offset(source: str, ms: int, at: int) -> Edit:
    return edit(Op.CLOCK_OFFSET, at, _LAST, source=source, value={"ms": ms})


def _by_hand(facts: Facts) -> set[tuple[str | None, str | None]]:
    last = {
        (it.source, it.external_id): it.value
        for it in sorted(facts.edits, key=lambda it: (it.at, it.id))
        if it.op is Op.SET_TIME
    }
    return {target for target, value in last.items() if value is not None}


def _sorted(timeline: Timeline) -> list[Entry]:
    return sorted(timeline.entries, key=lambda entry: (entry.source, entry.id))


def _is_part(part: Sequence[object], whole: Sequence[object]) -> bool:
    rest = iter(whole)
    return all(it in rest for it in part)


PROPERTIES: Mapping[str, Callable[[st.DataObject], None]] = {
    name.split("_")[0].upper(): check
    for name, check in sorted(globals().items())
    if name.startswith("p") and name[1:].split("_")[0].isdigit()
}
