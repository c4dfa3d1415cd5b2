"""What is different between two timelines is named once, and an entry carries all that its fact says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from uuid import UUID

import pytest

from postfacta_app.postmortems.model import ChangedEntry
from postfacta_app.signals.model import Precision
from postfacta_app.timeline.model import Edit, Facts, Op, Signal
from postfacta_app.timeline.rules import Timeline, build
from tests.app.timeline.oracle import changes, etag

SIGNAL = Signal(
    signal_id=UUID(int=1), source="ci", external_id="1", kind="alert_firing", occurred_at=1_000_000,
    precision=Precision.EXACT, title="Down", content_sha256="ab", sequence="7", known_at=3, received_at=2_000_000,
    time_basis="received", services=("billing",), environment="prod", links=({"url": "https://example.org"},),
    conflicts=2,
)  # fmt: skip


def attached(*signals: Signal) -> Timeline:
    edits = [Edit(id=it.signal_id, at=1, op=Op.ATTACH, signal_id=it.signal_id) for it in signals]
    return build(Facts(signals, edits=edits))


def a_signal(number: int) -> Signal:
    return replace(SIGNAL, signal_id=UUID(int=number), external_id=str(number))


def ids(entries: Sequence[ChangedEntry]) -> list[str]:
    return [entry.id for entry in entries]


def test_added_removed_moved_and_retitled_entries_are_named() -> None:
    same, later, closer, renamed, rewritten, gone, new = (
        a_signal(number) for number in range(1, 8)
    )
    before = attached(same, later, closer, renamed, rewritten, gone)
    after = attached(
        same,
        replace(later, occurred_at=9_000_000),
        replace(closer, precision=Precision.SECOND),
        replace(renamed, title="Up"),
        replace(rewritten, content_sha256="cd"),
        new,
    )
    found = changes(before, after)
    assert ids(found.added) == ["7"]
    assert ids(found.removed) == ["6"]
    assert sorted(ids(found.moved)) == ["2", "3"]
    assert sorted(ids(found.retitled)) == ["4", "5"]
    # As they are in the later, and removed ones as they were.
    assert {entry.t for entry in found.moved} == {9_000_000, 1_000_000}
    assert {entry.title for entry in found.retitled} == {"Up", "Down"}
    assert [entry.t for entry in found.removed] == [1_000_000]
    assert changes(after, after) == changes(before, before)
    assert ids(changes(before, before).moved) == []


def test_one_id_of_two_sources_is_two_entries() -> None:
    other = replace(a_signal(2), external_id="1", source="ci/api")
    found = changes(attached(SIGNAL), attached(SIGNAL, other))
    assert [entry.source for entry in found.added] == ["ci/api"]
    assert (found.removed, found.moved, found.retitled) == ([], [], [])


def test_an_entry_carries_what_its_signal_says() -> None:
    (entry,) = attached(SIGNAL).entries
    assert asdict(entry) == {
        "source": "ci", "id": "1", "kind": "alert_firing", "t": 1_000_000, "p": Precision.EXACT, "title": "Down",
        "sha": "ab", "pinned": False, "hidden": False, "occurred_at": 1_000_000,
        "original_precision": Precision.EXACT, "original_title": "Down", "sequence": "7", "known_at": 3,
        "received_at": 2_000_000, "time_basis": "received", "clock_suspect": False, "signal_id": UUID(int=1),
        "services": ("billing",), "environment": "prod", "links": ({"url": "https://example.org"},),
        "conflicts": 2, "tie": False,
    }  # fmt: skip


def test_a_correction_keeps_what_the_fact_said() -> None:
    edit = Edit(
        id=UUID(int=9),
        at=2,
        op=Op.SET_TITLE,
        source="ci",
        external_id="1",
        value={"title": "Renamed"},
    )
    attach = Edit(id=UUID(int=8), at=1, op=Op.ATTACH, signal_id=SIGNAL.signal_id)
    (entry,) = build(Facts([SIGNAL], edits=[attach, edit])).entries
    assert (entry.title, entry.original_title) == ("Renamed", "Down")


@pytest.mark.parametrize("conflicts", [0, 3])
def test_the_etag_has_half_of_the_digest_and_the_conflicts(conflicts: int) -> None:
    timeline = attached(replace(SIGNAL, conflicts=conflicts))
    assert etag(timeline) == f'"{timeline.digest[:32]}-{conflicts}"'
