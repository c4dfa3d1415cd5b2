"""What a feed keeps, and what a watcher gets of it: all by numbers, nothing waits."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from postfacta_core.feed import GAP, FeedEvent
from postfacta_core.feed._events import Entry, place_written, written
from postfacta_core.feed._kept import Cursor, Kept, MaySee, Turn


def everything(event: FeedEvent) -> bool:
    return True


def kept_of(*ids: str, most: int = 10) -> Kept:
    kept = Kept(most, "here")
    for name in ids:
        kept.add(FeedEvent(name, name))
    return kept


def cursor(
    kept: Kept, last_id: str | None = None, *, may_see: MaySee = everything, may_lag: bool = False
) -> Cursor:
    return Cursor(kept, may_see, last_id, may_lag=may_lag)


def taken(of: Cursor) -> list[str]:
    """Take all there is."""
    seen: list[str] = []
    while isinstance(entry := of.next(), Entry):
        seen.append(entry.event.id)
    return seen


def test_who_comes_new_gets_what_comes_from_now_on() -> None:
    kept = kept_of("1", "2")
    watcher = cursor(kept)
    assert watcher.next() is Turn.WAIT
    kept.add(FeedEvent("3", "3"))
    assert taken(watcher) == ["3"]


def test_who_returns_gets_what_was_missed() -> None:
    kept = kept_of("1", "2", "3", "4")
    assert taken(cursor(kept, "2")) == ["3", "4"]
    assert taken(cursor(kept, "4")) == []


def test_an_id_is_published_once() -> None:
    kept = kept_of("1", "2")
    assert kept.add(FeedEvent("other", "1")) is None
    assert (kept.head, kept.last_id) == (2, "2")
    assert taken(cursor(kept, "1")) == ["2"]


FORGED = {
    "of another": "there-1",
    "never published": "99",
    "no longer remembered": "1",
    "longer than any": "x" * 201,
    "a mark of another": "there.3",
    "a mark of the future": "here.1000000",
    "a mark below what is kept": "here.1",
    "a mark that is no number": "here.²",
    "a huge mark": "here." + "9" * 195,
    "a lost one": "12",
}


@pytest.mark.parametrize("last_id", FORGED.values(), ids=FORGED)
def test_an_unknown_id_is_a_gap_and_then_the_future(last_id: str) -> None:
    kept = kept_of(*(str(number) for number in range(1, 25)))
    watcher = cursor(kept, last_id)
    assert watcher.place() == ""
    entry = watcher.next()
    assert isinstance(entry, Entry)
    assert entry.event is GAP
    assert entry.wire == b"event: gap\nid: 24\ndata: {}\n\n"
    assert watcher.next() is Turn.WAIT
    kept.add(FeedEvent("25", "25"))
    assert taken(watcher) == ["25"]


def test_the_last_that_was_lost_is_no_gap() -> None:
    kept = kept_of(*(str(number) for number in range(1, 15)))
    assert taken(cursor(kept, "4"))[:2] == ["5", "6"]
    assert taken(cursor(kept, "3")) == ["gap"]


def test_of_one_key_the_newest_is_kept() -> None:
    kept = Kept(3, "here")
    kept.add(FeedEvent("", "b", key="other"))
    watcher = cursor(kept)
    for number in range(100):
        kept.add(FeedEvent("", f"a{number}", key="order"))
    assert taken(watcher) == ["a99"]
    assert kept.floor == 0
    # An id that was replaced is remembered for a while, and so is that of the other key.
    assert taken(cursor(kept, "a97")) == ["a99"]
    assert taken(cursor(kept, "b")) == ["a99"]
    assert taken(cursor(kept, "a5")) == ["gap"]


def test_what_was_taken_and_replaced_since_is_left_out() -> None:
    kept = Kept(10, "here")
    watcher = cursor(kept)
    kept.add(FeedEvent("", "a1", key="a"))
    kept.add(FeedEvent("", "b1", key="b"))
    kept.add(FeedEvent("", "c1", key="c"))
    assert isinstance(first := watcher.next(), Entry)
    assert first.event.id == "a1"
    kept.add(FeedEvent("", "b2", key="b"))
    assert taken(watcher) == ["c1", "b2"]


def test_each_watcher_sees_what_it_may() -> None:
    kept = Kept(10, "here")
    kept.add(FeedEvent("", "1", name="ours"))
    kept.add(FeedEvent("", "2", name="theirs"))
    kept.add(FeedEvent("", "3", name="ours"))
    ours = cursor(kept, "1", may_see=lambda event: event.name == "ours")
    assert taken(ours) == ["3"]
    # The id of what it may not see is that of a stranger.
    assert taken(cursor(kept, "2", may_see=lambda event: event.name == "ours")) == ["gap"]


def test_who_comes_new_can_return_before_its_first_event() -> None:
    kept = kept_of("1", "2")
    assert cursor(kept).place() == "2"
    mine = cursor(kept, may_see=lambda event: event.id == "1")
    assert mine.place() == "1"
    blind = cursor(kept, may_see=lambda event: event.id == "3")
    assert blind.place() == "here.2"
    kept.add(FeedEvent("3", "3"))
    back = cursor(kept, "here.2", may_see=lambda event: event.id == "3")
    assert back.place() == ""
    assert taken(back) == ["3"]


def test_one_that_lags_by_half_of_what_is_kept_is_slow() -> None:
    kept = kept_of()
    watcher = cursor(kept)
    patient = cursor(kept, may_lag=True)
    for number in range(60):
        kept.add(FeedEvent("", f"x{number}"))
    # A burst is no slowness: it had seen all that was there before.
    assert taken(watcher) == taken(patient) == ["gap"]
    for number in range(8):
        kept.add(FeedEvent("", f"y{number}"))
    assert isinstance(watcher.next(), Entry)
    for number in range(6):
        kept.add(FeedEvent("", f"z{number}"))
    assert taken(watcher) == [f"y{number}" for number in range(1, 8)]
    assert watcher.next() is Turn.LEAVE
    assert taken(cursor(kept, "y7")) == [f"z{number}" for number in range(6)]


def test_a_patient_watcher_is_never_slow() -> None:
    kept = kept_of()
    patient = cursor(kept, may_lag=True)
    for number in range(4):
        kept.add(FeedEvent("", f"x{number}"))
    assert isinstance(patient.next(), Entry)
    for number in range(6):
        kept.add(FeedEvent("", f"y{number}"))
    assert taken(patient) == ["x1", "x2", "x3", *(f"y{number}" for number in range(6))]


def test_many_are_taken_in_their_order() -> None:
    kept = kept_of(*map(str, range(200)), most=1000)
    assert taken(cursor(kept, "0")) == [str(number) for number in range(1, 200)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("publish"), st.integers(0, 30), st.sampled_from(["", "a", "b"])),
            st.tuples(st.just("take"), st.integers(1, 4), st.just("")),
            st.tuples(st.just("return"), st.just(0), st.just("")),
        ),
        max_size=60,
    )
)
def test_a_watcher_misses_nothing_without_a_gap(steps: list[tuple[str, int, str]]) -> None:
    kept = Kept(5, "here")
    seen: list[str] = []
    published: list[FeedEvent] = []
    watcher = cursor(kept, may_lag=True)
    last = watcher.place()
    for step, number, key in steps:
        if step == "publish":
            event = FeedEvent("", f"{number}{key}", key=key)
            if kept.add(event) is not None:
                published.append(event)
        elif step == "return":
            watcher = cursor(kept, last, may_lag=True)
        else:
            for _ in range(number):
                if not isinstance(entry := watcher.next(), Entry):
                    break
                seen.append(entry.event.id)
                last = kept.mark(everything) if entry.event is GAP else entry.event.id
    rest = taken(watcher)
    if "gap" in [*seen, *rest]:
        return
    got = [*seen, *rest]
    assert len(got) == len(set(got))
    newest = {event.key or event.id: event.id for event in published}
    assert set(newest.values()) <= set(got)
    positions = [[event.id for event in published].index(name) for name in got]
    assert positions == sorted(positions)


WRITTEN = {
    "plain": (FeedEvent("hello", "7"), b"id: 7\ndata: hello\n\n"),
    "named": (FeedEvent("{}", "7", name="paid"), b"event: paid\nid: 7\ndata: {}\n\n"),
    "lines": (FeedEvent("a\nb\r\nc\rd", "7"), b"id: 7\ndata: a\ndata: b\ndata: c\ndata: d\n\n"),
    "empty": (FeedEvent("", "7"), b"id: 7\ndata: \n\n"),
    "other letters": (FeedEvent("größer", "7"), "id: 7\ndata: größer\n\n".encode()),
}


@pytest.mark.parametrize("case", WRITTEN.values(), ids=WRITTEN)
def test_an_event_is_written_by_the_format(case: tuple[FeedEvent, bytes]) -> None:
    event, wire = case
    assert written(event, event.id) == wire
    assert place_written("7") == b"id: 7\n\n"


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", ""), ("id", "a\nb"), ("id", "a\0"), ("id", "x" * 201), ("name", "a\rb"), ("data", 1)],
)
def test_an_event_that_would_be_read_as_another_is_refused(field: str, value: object) -> None:
    fields: dict[str, object] = {"data": "", "id": "1", field: value}
    with pytest.raises(ValueError, match=f"FeedEvent.{field} must be"):
        FeedEvent(**fields)  # type: ignore[arg-type]
