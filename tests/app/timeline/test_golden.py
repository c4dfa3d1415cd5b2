"""What the rules made of fixed facts once, they make of them for ever: other digests need another number of the rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest

from postfacta_app.timeline import rules
from postfacta_app.timeline.model import Edit, Entry, Facts, Op, Precision, Signal
from postfacta_app.timeline.rules import RULES, Place, build, sort_key
from tests.app.timeline.golden import Golden, goldens

VERSION, SETS = goldens()


def digests() -> list[str]:
    return [build(it.facts, **it.options).digest for it in SETS]


def test_there_are_twenty_sets_of_these_rules() -> None:
    assert VERSION == RULES
    assert len(SETS) == 20
    assert len({it.digest for it in SETS}) == 20


@pytest.mark.parametrize("golden", SETS, ids=[str(n) for n in range(20)])
def test_fixed_facts_keep_their_order_and_digest(golden: Golden) -> None:
    timeline = build(golden.facts, **golden.options)
    assert [f"{it.source} {it.id}" for it in timeline.entries] == golden.order, "raise RULES by one"
    assert timeline.digest == golden.digest, "raise RULES by one"


Key = Callable[[Entry], object]


def _changed(place: int, become: Callable[[Place], object]) -> Key:
    def key(entry: Entry) -> object:
        at = sort_key(entry)
        return (*at[:place], become(at), *at[place + 1 :])

    return key


MUTANTS: dict[str, Key] = {
    "unnumbered first": _changed(4, lambda at: not at[4]),
    "numbered and unnumbered mixed": _changed(4, lambda at: 0),
    "sequence ignored": _changed(5, lambda at: 0),
    "sequence as a number": _changed(5, lambda at: int(at[5] or 0)),
    "precision ignored": _changed(1, lambda at: 0),
    "kind ignored": _changed(2, lambda at: 0),
    "source ignored": _changed(3, lambda at: 0),
    "source after sequence": lambda entry: [sort_key(entry)[n] for n in (0, 1, 2, 4, 5, 3, 6)],
    "recovery before alert": _changed(2, lambda at: -at[2]),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_another_order_is_seen_in_the_golden_digests(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "sort_key", MUTANTS[mutant])
    assert digests() != [it.digest for it in SETS]


def test_numbered_entries_stand_before_unnumbered_ones_of_their_source() -> None:
    first = Signal(
        signal_id=UUID(int=1), source="ci", external_id="", kind="change", occurred_at=0, precision=Precision.EXACT,
        title="t", content_sha256="aa", received_at=0, time_basis="event",
    )  # fmt: skip
    # By id alone the order would be the other way round.
    told = {"e": "1", "d": "10", "c": "2", "b": None, "a": None}
    signals = [
        replace(first, signal_id=UUID(int=n), external_id=name, sequence=sequence)
        for n, (name, sequence) in enumerate(told.items())
    ]
    edits = [Edit(id=it.signal_id, at=1, op=Op.ATTACH, signal_id=it.signal_id) for it in signals]
    assert [it.id for it in build(Facts(signals, edits=edits)).entries] == ["e", "d", "c", "a", "b"]
