"""The rules of order keep their promises on whatever facts, and each way to break them that is known is noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st

from postfacta_app.timeline import kept, rules
from postfacta_app.timeline.model import Annotation, Edit, Entry, Instant, Milestone, Op
from tests.app.timeline.properties import PROPERTIES

# `make proofs` runs it with `--hypothesis-profile=night`.
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_property_of_the_design_holds(name: str) -> None:
    @settings(suppress_health_check=SLOW)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        PROPERTIES[name](data)

    holds()


def test_all_thirteen_are_there() -> None:
    assert sorted(PROPERTIES, key=lambda name: int(name[1:])) == [f"P{n}" for n in range(1, 14)]


# Ways to break them

Broken = tuple[object, str, object]
"""A module, the name of a function of it, and what stands in its place."""

_key: Callable[[Entry], tuple[object, ...]] = rules.sort_key
_until: Callable[[Iterable[Edit | Annotation], int | None], list[Edit | Annotation]] = vars(rules)[
    "_until"
]
_last: Callable[[Iterable[Edit]], rules.Last] = vars(rules)["_last"]
_when: Callable[[Entry, Instant | None, int], Instant] = vars(rules)["_when"]
_digest: Callable[[Iterable[Entry], Mapping[Milestone, Instant]], str] = vars(rules)["_digest"]


def _by_time(entry: Entry) -> object:
    return entry.t


def _by_time_and_arrival(entry: Entry) -> object:
    return entry.t, entry.received_at or 0


def _without_id(entry: Entry) -> object:
    return _key(entry)[:-1]


def _time_alone(entry: Entry) -> object:
    return entry.t, 9, 99, "~", True, "~", "~"


def _without_milestones(entries: Iterable[Entry], milestones: Mapping[Milestone, Instant]) -> str:
    return _digest(entries, {})


def _in_row_order(facts: Iterable[Edit], as_of: int | None) -> list[Edit]:
    return [it for it in facts if as_of is None or it.at <= as_of]


def _by_time_without_id(facts: Iterable[Edit], as_of: int | None) -> list[Edit]:
    return sorted(_in_row_order(facts, as_of), key=lambda it: it.at)


def _first_edit_wins(edits: Sequence[Edit]) -> rules.Last:
    return _last(reversed(list(edits)))


def _without(op: Op) -> Callable[[Iterable[Edit]], rules.Last]:
    return lambda edits: _last([it for it in edits if it.op is not op])


def _reattach_ignored(edits: Iterable[Edit]) -> rules.Last:
    gone: set[object] = set()
    kept: list[Edit] = []
    for it in edits:
        if it.op is Op.DETACH:
            gone.add(it.signal_id)
        if not (it.op is Op.ATTACH and it.signal_id in gone):
            kept.append(it)
    return _last(kept)


def _reads_later_edits(
    facts: Iterable[Edit | Annotation], as_of: int | None
) -> list[Edit | Annotation]:
    found = list(facts)
    return _until(found, None if found and isinstance(found[0], Edit) else as_of)


def _reads_later_facts(
    facts: Iterable[Edit | Annotation], as_of: int | None
) -> list[Edit | Annotation]:
    found = list(facts)
    return _until(found, as_of if found and isinstance(found[0], Edit) else None)


def _offset_moves_a_hand_set_time(entry: Entry, corrected: Instant | None, offset: int) -> Instant:
    at = _when(entry, corrected, offset)
    return at if corrected is None else replace(at, t=at.t + offset)


def _offset_before_rounding(entry: Entry, corrected: Instant | None, offset: int) -> Instant:
    return corrected or Instant(entry.p.floor(entry.occurred_at + offset), entry.p)


def _reordering_filter(entries: Sequence[Entry], known_as_of: int | None) -> Sequence[Entry]:
    if known_as_of is None:
        return entries
    known = [it for it in entries if (it.t if it.known_at is None else it.known_at) <= known_as_of]
    return sorted(known, key=lambda it: it.t if it.known_at is None else it.known_at)


def _titles_outside(entries: Iterable[Entry], milestones: Mapping[Milestone, Instant]) -> str:
    return _digest([replace(it, title="") for it in entries], milestones)


MUTANTS: dict[str, tuple[str, Broken]] = {
    "key by time only": ("P3", (rules, "sort_key", _by_time)),
    "key by time only, any order": ("P1", (rules, "sort_key", _by_time)),
    "no id at the end": ("P3", (rules, "sort_key", _without_id)),
    "no id at the end, any order": ("P1", (rules, "sort_key", _without_id)),
    "tie broken by arrival": ("P1", (rules, "sort_key", _by_time_and_arrival)),
    "edits in row order": ("P1", (rules, "_until", _in_row_order)),
    "edits by time without id": ("P1", (rules, "_until", _by_time_without_id)),
    "a repeat counted twice": ("P2", (rules, "_unique", list)),
    "offset moves a hand-set time": ("P4", (rules, "_when", _offset_moves_a_hand_set_time)),
    "first edit wins, offsets": ("P4", (rules, "_last", _first_edit_wins)),
    "offset before rounding": ("P5", (rules, "_when", _offset_before_rounding)),
    "unhide ignored": ("P7", (rules, "_last", _without(Op.UNHIDE))),
    "re-attach ignored": ("P7", (rules, "_last", _reattach_ignored)),
    "first edit wins": ("P7", (rules, "_last", _first_edit_wins)),
    "as-of reads later edits": ("P8", (rules, "_until", _reads_later_edits)),
    "as-of reads later facts": ("P8", (rules, "_until", _reads_later_facts)),
    "cursor on time only": ("P10", (kept, "sort_key", _time_alone)),
    "filter that reorders": ("P11", (rules, "_known_by", _reordering_filter)),
    "title outside the digest": ("P12", (rules, "_digest", _titles_outside)),
    "milestones outside the digest": ("P12", (rules, "_digest", _without_milestones)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_way_to_break_the_rules_is_noticed(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, (module, function, broken) = MUTANTS[mutant]

    # With this seed, about a hundred examples notice any of them; with others, up to a thousand do.
    @seed(11)
    @settings(
        max_examples=2000, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=SLOW, report_multiple_bugs=False,
    )  # fmt: skip
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        PROPERTIES[name](data)

    monkeypatch.setattr(module, function, broken)
    with pytest.raises(AssertionError):
        holds()
