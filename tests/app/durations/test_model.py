"""A duration is a number only if it is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import Phase as HypothesisPhase, given, settings, strategies as st

import postfacta_app.durations as model
from postfacta_app.durations import (
    Basis,
    Duration,
    DurationStatus as Status,
    Mark,
    Phase,
    durations,
    measure,
)
from postfacta_app.signals.model import Precision
from postfacta_app.timeline.model import Edit, Facts, Op, Signal, StatusChange, moment
from tests.app.timeline.oracle import marks
from tests.app.timeline.worlds import (
    LATER,
    NOON,
    attach,
    edit,
    offsets,
    precisions,
    times,
    with_edits,
    worlds,
)
from tests.kit.every import every

MINUTE = 60_000_000


def a_mark(at: int, precision: Precision, basis: Basis) -> Mark:
    return Mark(precision.floor(at), precision, basis)


_instants = st.integers(NOON, NOON + 4 * MINUTE) | times
_marks = st.none() | st.builds(a_mark, _instants, precisions, st.sampled_from(Basis))
_measure = measure


def d1(start: Mark | None, end: Mark | None, *, is_open: bool) -> None:
    found = model.measure(start, end, is_open=is_open)
    assert (found.seconds is None) == (found.status is not Status.OK)
    assert (found.max_seconds is None) == (found.status is not Status.IMPRECISE)
    if start is None or end is None:
        assert found.status is (Status.PENDING if is_open and end is None else Status.MISSING)
        return
    # What may really have been: each end lies somewhere within its precision.
    shortest = end.t - (start.t + start.p.width - 1)
    longest = end.t + end.p.width - 1 - start.t
    assert (found.status is Status.INVALID_ORDER) == (longest < 0)
    if found.seconds is not None:
        assert shortest <= found.seconds * 1e6 <= longest
        assert found.seconds >= 0
        assert found.seconds > 0 or (start.t, start.p) == (end.t, end.p) == (
            start.t,
            Precision.EXACT,
        )
    if found.max_seconds is not None:
        assert abs(end.t - start.t) < found.max_seconds * 1e6 == max(start.p.width, end.p.width)


@given(start=_marks, end=_marks, is_open=st.booleans())
def test_a_duration_is_a_number_only_if_it_is_known(
    start: Mark | None,
    end: Mark | None,
    is_open: bool,  # noqa: FBT001 - hypothesis hands it over by name
) -> None:
    d1(start, end, is_open=is_open)


def _unknown_is_zero(start: Mark | None, end: Mark | None, *, is_open: bool) -> Duration:
    found = _measure(start, end, is_open=is_open)
    return found.model_copy(update={"seconds": found.seconds or 0.0})


def _same_minute_is_zero(start: Mark | None, end: Mark | None, *, is_open: bool) -> Duration:
    found = _measure(start, end, is_open=is_open)
    return Duration(status=Status.OK, seconds=0.0) if found.status is Status.IMPRECISE else found


def _negative_is_kept(start: Mark | None, end: Mark | None, *, is_open: bool) -> Duration:
    found = _measure(start, end, is_open=is_open)
    if found.status is Status.INVALID_ORDER and start and end:
        return Duration(status=Status.OK, seconds=(end.t - start.t) / 1e6)
    return found


@pytest.mark.parametrize("broken", [_unknown_is_zero, _same_minute_is_zero, _negative_is_kept])
def test_a_way_to_break_that_is_noticed(
    broken: Callable[..., Duration], monkeypatch: pytest.MonkeyPatch
) -> None:
    @settings(
        max_examples=1000,
        deadline=None,
        database=None,
        phases=[HypothesisPhase.generate],
        derandomize=True,
    )
    @given(start=_marks, end=_marks, is_open=st.booleans())
    def holds(start: Mark | None, end: Mark | None, is_open: bool) -> None:  # noqa: FBT001 - hypothesis hands it over by name
        d1(start, end, is_open=is_open)

    monkeypatch.setattr(model, "measure", broken)
    with pytest.raises(AssertionError):
        holds()


def at(minutes: float, precision: Precision = Precision.EXACT) -> Mark:
    return Mark(NOON + int(minutes * MINUTE), precision, Basis.GIVEN)


MINUTES, HOURS = Precision.MINUTE, Precision.HOUR
CASES = [
    (at(0), at(0), Status.OK, 0.0, None),
    (at(0), at(1.5), Status.OK, 90.0, None),
    (at(0, MINUTES), at(0, MINUTES), Status.IMPRECISE, None, 60.0),
    (at(0, MINUTES), at(1, MINUTES), Status.OK, 60.0, None),
    (at(0, MINUTES), at(0.5), Status.IMPRECISE, None, 60.0),
    (at(0.5), at(0, MINUTES), Status.IMPRECISE, None, 60.0),
    (at(0, HOURS), at(59, MINUTES), Status.IMPRECISE, None, 3600.0),
    (at(1), at(0), Status.INVALID_ORDER, None, None),
    (at(1, MINUTES), at(0, MINUTES), Status.INVALID_ORDER, None, None),
    (at(1), at(0, MINUTES), Status.INVALID_ORDER, None, None),
]


def test_precision_decides_what_is_known() -> None:
    with every() as case:
        for start, end, status, seconds, most in CASES:
            with case(start, end):
                found = measure(start, end, is_open=False)
                assert (found.status, found.seconds, found.max_seconds) == (status, seconds, most)
                assert found.precision == min(start.p, end.p, key=lambda precision: precision.rank)


# Milestones


def move(n: int, old: str | None, new: str, minutes: float) -> StatusChange:
    return StatusChange(
        id=UUID(int=n),
        at=n,
        from_status=old,
        to_status=new,
        occurred_at=NOON + int(minutes * MINUTE),
    )


DECLARED = move(1, None, "OPEN", 10)


def alert(n: int, minutes: float, kind: str = "alert_firing") -> tuple[Signal, Edit]:
    when = NOON + int(minutes * MINUTE)
    signal = Signal(
        signal_id=UUID(int=n), source="prometheus", external_id=f"a{n}", kind=kind, occurred_at=when,
        precision=Precision.EXACT, title="Alert", content_sha256="ab" * 32, received_at=when, time_basis="event",
    )  # fmt: skip
    return signal, attach(signal, n, UUID(int=n))


def found(facts: Facts) -> dict[str, tuple[float, str]]:
    return {
        str(name): ((mark.t - NOON) / MINUTE, str(mark.basis))
        for name, mark in marks(facts)[0].items()
    }


def test_what_alerts_and_moves_tell_is_derived() -> None:
    moves = [
        DECLARED,
        move(2, "OPEN", "IN_PROGRESS", 12),
        move(3, "IN_PROGRESS", "RESOLVED", 40),
        move(4, "RESOLVED", "CLOSED", 99),
    ]
    early, late, other = alert(5, 5), alert(6, 7), alert(7, 1, "metric")
    facts = Facts(
        [it[0] for it in (early, late, other)], moves, edits=[it[1] for it in (early, late, other)]
    )
    expected = {
        "declared": (10, "derived"), "detected": (5, "derived"), "acknowledged": (12, "derived"),
        "resolved": (40, "derived"),
    }  # fmt: skip
    assert found(facts) == expected
    hidden = with_edits(
        facts, edit(Op.HIDE, LATER, UUID(int=9), source="prometheus", external_id="a5")
    )
    assert found(hidden)["detected"] == (7, "derived")
    both = with_edits(
        hidden, edit(Op.HIDE, LATER, UUID(int=8), source="prometheus", external_id="a6")
    )
    assert found(both)["detected"] == (10, "derived")  # The declaration, if nothing told earlier.


def test_a_reopened_incident_is_not_resolved_until_it_ends_again() -> None:
    moves = [DECLARED, move(2, "OPEN", "RESOLVED", 40), move(3, "RESOLVED", "IN_PROGRESS", 50)]
    assert "resolved" not in found(Facts(changes=moves))
    assert marks(Facts(changes=moves))[1]
    ended = Facts(changes=[*moves, move(4, "IN_PROGRESS", "CLOSED", 60)])
    assert found(ended)["resolved"] == (60, "derived")
    assert not marks(ended)[1]


def test_what_people_say_wins_and_corrections_of_moves_count() -> None:
    facts = Facts(changes=[DECLARED, move(2, "OPEN", "RESOLVED", 40)])
    named = edit(
        Op.MILESTONE,
        5,
        UUID(int=5),
        value={"name": "detected", "at": moment(NOON).isoformat(), "precision": "exact"},
    )
    assert found(with_edits(facts, named))["detected"] == (0, "given")
    taken_back = replace(named, at=6, value={"name": "detected", "at": None, "precision": "exact"})
    assert found(with_edits(facts, named, taken_back))["detected"] == (10, "derived")
    value = {"at": moment(NOON + 30 * MINUTE).isoformat(), "precision": "exact"}
    moved = edit(
        Op.SET_TIME,
        7,
        UUID(int=7),
        source="postfacta",
        external_id=f"status:{UUID(int=2)}",
        value=value,
    )
    assert found(with_edits(facts, moved))["resolved"] == (30, "derived")


@given(facts=worlds())
def test_impact_and_mitigation_are_never_derived(facts: Facts) -> None:
    known, _ = marks(facts)
    for name in ("impact_started", "mitigated"):
        assert name not in known or known[name].basis is Basis.GIVEN


def test_what_may_still_come_is_pending_and_the_rest_missing() -> None:
    pending = durations(marks(Facts(changes=[DECLARED]))[0], is_open=True)
    assert {phase: it.status for phase, it in pending.items()} == {
        Phase.DETECT: Status.MISSING,
        Phase.ACKNOWLEDGE: Status.PENDING,
        Phase.MITIGATE: Status.PENDING,
        Phase.RESOLVE: Status.PENDING,
        Phase.OPEN: Status.PENDING,
    }
    ended = Facts(changes=[DECLARED, move(2, "OPEN", "CLOSED", 40)])
    known, is_open = marks(ended)
    got = durations(known, is_open=is_open)
    assert [it.status for it in got.values()] == [Status.MISSING] * 4 + [Status.OK]
    assert (got[Phase.OPEN].seconds, got[Phase.OPEN].basis) == (1800.0, Basis.DERIVED)


@given(facts=worlds(), ms=offsets)
def test_the_order_in_which_facts_came_changes_no_duration(facts: Facts, ms: int) -> None:
    shifted = with_edits(
        facts, edit(Op.CLOCK_OFFSET, LATER, UUID(int=3), source="deploy", value={"ms": ms})
    )
    turned = Facts(
        shifted.signals[::-1], shifted.changes[::-1], shifted.annotations[::-1], shifted.edits[::-1]
    )
    assert marks(turned) == marks(shifted)
