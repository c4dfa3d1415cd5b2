"""The times that are promised for an alert are those that follow from its windows."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from postfacta_slo.proofs.detection import Burn, Counting, Slicing, Stretch, Traffic, verdicts

# Scrapes of 15 s, 20 requests a second.
QUICK = Burn(tier="fast", long=20, short=4, hold=4, threshold=0.06, failures=10)
LATER = Burn(tier="slow", long=120, short=20, hold=20, threshold=0.01, failures=10)
HOUR = Burn(tier="fast", long=240, short=20, hold=8, threshold=0.144)
MINUTE = Slicing(width=4, allowed=0.05)
EVENTS = Counting(beyond=480, piece=20)


def fault(bad: int, *, total: int = 300, before: int = 240, lasts: int = 120) -> Traffic:
    return Traffic((Stretch(before, total), Stretch(lasts, total, bad)))


def fires(verdict: list[bool | None], *, after: int) -> int | None:
    """How long after a moment an alert first fires for sure."""
    return verdict.index(True) - after if True in verdict else None


@pytest.mark.parametrize(
    ("bad", "quick", "later"), [(300, 6, 22), (150, 7, 23), (297, 6, 22), (31, 16, 32)]
)
def test_an_alert_fires_once_both_windows_have_burnt_for_so_long(
    bad: int, quick: int, later: int
) -> None:
    assert fires(verdicts(fault(bad), QUICK, EVENTS), after=240) == quick
    assert fires(verdicts(fault(bad), LATER, EVENTS), after=240) == later


def test_what_hangs_on_the_last_bit_of_a_float_is_left_open() -> None:
    # A fifth fails: after six scrapes it is exactly 6 % of the long window.
    verdict = verdicts(fault(60), QUICK, EVENTS)
    assert verdict[240 + 9] is False
    assert verdict[240 + 10] is None
    assert verdict[240 + 11] is True


@pytest.mark.parametrize("bad", [0, 6, 15, 17])
def test_below_its_threshold_an_alert_never_fires(bad: int) -> None:
    assert set(verdicts(fault(bad, lasts=500), QUICK, EVENTS)) == {False}


def test_too_few_failures_fire_nothing_however_large_their_share() -> None:
    burst = Traffic((Stretch(240, 0), *(Stretch(1, 1, place % 3 == 0) for place in range(240))))
    assert set(verdicts(burst, QUICK, EVENTS)) == {False}
    steady = Traffic((Stretch(240, 0), Stretch(240, 1, 1)))
    assert True in verdicts(steady, QUICK, EVENTS)


def test_an_alert_stops_with_its_short_window() -> None:
    traffic = Traffic((*fault(300, lasts=40).stretches, Stretch(40, 300)))
    verdict = verdicts(traffic, QUICK, EVENTS)
    assert verdict[280] is True
    assert verdict[280 + 4] is False
    assert verdict[280:].index(False) in {3, 4}


def test_an_hour_of_slices_needs_nine_minutes_of_bad_ones() -> None:
    verdict = verdicts(fault(300), HOUR, MINUTE, every=4)
    # One evaluation a minute: nine bad ones of 61, or of 60, then two minutes of patience.
    assert fires(verdict, after=60) == 11
    assert verdict[60 + 10] is False


def test_a_slice_with_too_few_events_does_no_harm() -> None:
    few = Slicing(width=20, allowed=0.05, events=100)
    assert set(verdicts(fault(4, total=4), HOUR, few)) == {False}
    assert True in verdicts(fault(6, total=6), HOUR, few)


def test_points_become_slices_that_tolerate_some_of_them() -> None:
    points = Slicing(width=1, allowed=0.0, then=Slicing(width=20, allowed=0.5))
    blink = Traffic((Stretch(240, 1), Stretch(5, 1, 1), Stretch(40, 1)), counted=False)
    assert set(verdicts(blink, HOUR, points)) == {False}
    stare = Traffic((Stretch(240, 1), Stretch(120, 1, 1)), counted=False)
    # Half of 20 points and one more, an hour's 14.4 % of slices, and two minutes of patience.
    assert fires(verdicts(stare, HOUR, points), after=240) in range(10 + 35 + 7, 10 + 35 + 10)


def test_a_long_window_adds_up_pieces_and_lags_by_one_at_most() -> None:
    day = Burn(tier="slow", long=480, short=20, hold=0, threshold=0.03)
    read, added = (
        verdicts(fault(100, before=480), day, Counting(beyond=beyond, piece=20))
        for beyond in (480, 479)
    )
    one, other = (fires(verdict, after=480) for verdict in (read, added))
    assert one is not None
    assert other is not None
    assert one < other <= one + 20


@given(st.integers(0, 299), st.sampled_from([(QUICK, EVENTS), (LATER, EVENTS), (HOUR, MINUTE)]))
def test_worse_is_never_detected_later(bad: int, of: tuple[Burn, Counting | Slicing]) -> None:
    burn, by = of
    mild, worse = (verdicts(fault(share), burn, by) for share in (bad, bad + 1))
    assert all(other is not False for one, other in zip(mild, worse, strict=True) if one)


@given(st.integers(1, 8), st.integers(1, 300))
def test_no_alert_fires_before_its_patience_is_over(every: int, bad: int) -> None:
    for burn in (QUICK, LATER):
        verdict = verdicts(fault(bad), burn, EVENTS, every=every)
        fired = fires(verdict, after=0)
        assert fired is None or fired * every >= 240 + burn.hold
