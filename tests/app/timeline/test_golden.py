"""What the rules made of fixed facts, they make of them until `RULES` counts one more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from postfacta_app.signals.model import Precision
from postfacta_app.timeline import rules
from postfacta_app.timeline.model import Edit, Entry, Facts, Op, Signal
from postfacta_app.timeline.rules import RULES, Place, build, sort_key
from tests.app.timeline.goldens import FOLDER, goldens, outcome, rewrite, sealed, seals
from tests.kit.every import every

SETS = goldens()


def digests() -> list[str]:
    return [it.build().digest for it in SETS]


def test_there_are_twenty_sets_with_twenty_digests() -> None:
    assert len(SETS) == 20
    assert len({it.expected["digest"] for it in SETS}) == 20


def test_fixed_facts_keep_their_order_and_digest() -> None:
    with every() as case:
        for golden in SETS:
            with case(golden.name):
                assert outcome(golden.build()) == golden.expected, (
                    "restore the file, and raise RULES by one"
                )


def test_the_order_of_the_rows_changes_no_digest() -> None:
    with every() as case:
        for golden in SETS:
            # But for a key that came twice: the last one in its place is shown.
            facts = golden.facts
            turned = Facts(
                facts.signals, facts.changes[::-1], facts.annotations[::-1], facts.edits[::-1]
            )
            with case(golden.name):
                assert build(turned, **golden.options).digest == golden.expected["digest"]


def test_the_digests_of_a_version_are_sealed() -> None:
    assert sealed(SETS) == seals()[RULES], "restore the files, and raise RULES by one"


def test_other_digests_are_written_for_another_version_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "golden"
    shutil.copytree(FOLDER, folder)
    rewrite(folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        path.name: path.read_text() for path in FOLDER.iterdir()
    }
    monkeypatch.setattr(rules, "sort_key", MUTANTS["kind ignored"])
    with pytest.raises(ValueError, match=f"set RULES to {RULES + 1}"):
        rewrite(folder)
    assert json.loads((folder / "seals.json").read_text()).keys() == {str(it) for it in seals()}
    rewrite(folder, RULES + 1)
    assert seals(folder) == seals() | {RULES + 1: sealed(goldens(folder))}
    assert seals(folder)[RULES + 1] != seals()[RULES]


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
    "sequence as a number": _changed(5, lambda at: int(at[5]) if at[5].isdecimal() else 0),
    "precision ignored": _changed(1, lambda at: 0),
    "kind ignored": _changed(2, lambda at: 0),
    "source ignored": _changed(3, lambda at: 0),
    "source after sequence": lambda entry: [sort_key(entry)[n] for n in (0, 1, 2, 4, 5, 3, 6)],
    "recovery before alert": _changed(2, lambda at: -at[2]),
}


def test_another_order_is_seen_in_the_golden_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    with every() as case:
        for name, mutant in MUTANTS.items():
            monkeypatch.setattr(rules, "sort_key", mutant)
            with case(name):
                assert digests() != [it.expected["digest"] for it in SETS]


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
