"""A timeline on a page loses nothing, keeps its order, and says no more than is known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID, uuid5

import pytest
from hypothesis import given, strategies as st

from postfacta_app.durations import Basis, Duration, Mark, Phase, durations, turns
from postfacta_app.errors import InvalidFieldsError
from postfacta_app.incident_page import read_edit, read_instant
from postfacta_app.signals.model import Precision, micros
from postfacta_app.timeline.model import (
    AnnotationKind,
    AnnotationState,
    Entry,
    EntryRef,
    Facts,
    Op,
    Repeats,
    ShownAnnotation,
    ShownEdit,
    StatusChange,
)
from postfacta_app.timeline.rules import build
from postfacta_app.timeline.view import Line, Turn, anchor, chart, clock, days, lines, stamp
from postfacta_app.web.render import Pages
from tests.app.timeline.oracle import is_narrative, marks
from tests.app.timeline.worlds import precisions, times, worlds
from tests.kit.every import every

DAY = datetime(2026, 2, 7, tzinfo=UTC)
UNKNOWN = "\u2013"
PAGES = Pages(version="")
NAMESPACE = UUID(int=7)
some_turns = st.lists(
    st.builds(Turn, times, precisions, st.sampled_from(["detected", "resolved"])), max_size=3
)


def at(clock_time: str) -> int:
    return micros(datetime.fromisoformat(f"2026-02-07T{clock_time}+00:00"))


def entry(when: str, **fields: object) -> Entry:
    told = {
        "source": "ci", "id": when, "kind": "change", "t": at(when), "p": Precision.EXACT, "title": f"At {when}",
        "sha": "", "pinned": False, "hidden": False, "occurred_at": at(when), "original_precision": Precision.EXACT,
    }  # fmt: skip
    return Entry(**{**told, "original_title": fields.get("title", told["title"]), **fields})  # type: ignore[arg-type] # its own fields


def decision(op: Op, *, of: Entry | None = None, **fields: object) -> ShownEdit:
    target = EntryRef(source=of.source, id=of.id) if of else None
    return ShownEdit(id=uuid5(NAMESPACE, op), at=DAY, op=op, entry=target, actor="user:1", **fields)  # type: ignore[arg-type] # its own fields


def remark(name: str, kind: str, **fields: object) -> ShownAnnotation:
    told = {
        "state": None,
        "entry": None,
        "occurred_at": None,
        "precision": None,
        "changed_at": None,
        "version": 1,
    }
    identity = uuid5(NAMESPACE, name)
    return ShownAnnotation(
        id=identity,
        kind=AnnotationKind(kind),
        body=name,
        author="user:1",
        at=DAY,
        **{**told, **fields},  # type: ignore[arg-type] # its own fields
    )


def one(it: Entry, *edits: ShownEdit) -> Line:
    return lines([it], edits=edits)[0]


def laid_out(*shown: Entry, across: list[Turn] | None = None) -> list[tuple[str, list[str]]]:
    def words(item: list[Line] | Turn | str) -> str:
        if isinstance(item, list):
            return f"{clock(item[0].entry.t, item[0].entry.p)} {'+'.join(line.entry.title for line in item)}"
        return item.name if isinstance(item, Turn) else f"({item})"

    return [
        (f"{at:%d}", [words(it) for it in items]) for at, items in days(lines(shown), across or [])
    ]


# Nothing is lost


@given(facts=worlds(), across=some_turns, include_hidden=st.booleans())
def test_every_visible_entry_is_on_the_page_once_and_in_the_order_of_the_timeline(
    facts: Facts, across: list[Turn], *, include_hidden: bool
) -> None:
    entries = build(facts, include_hidden=include_hidden).entries
    laid = days(lines(entries), across)
    items = [item for _, of_day in laid for item in of_day]
    shown = [line.entry for item in items if isinstance(item, list) for line in item]
    assert shown == list(entries)
    assert sorted(it.t for it in items if isinstance(it, Turn)) == sorted(turn.t for turn in across)
    timed = [
        it.t if isinstance(it, Turn) else it[0].entry.t for it in items if not isinstance(it, str)
    ]
    assert timed == sorted(timed)
    assert [day for day, _ in laid] == sorted({day for day, _ in laid})


@given(worlds(), some_turns)
def test_every_mark_of_the_drawing_lies_within_it_and_in_the_order_of_time(
    facts: Facts, across: list[Turn]
) -> None:
    entries = build(facts).entries
    drawn = chart(lines(entries), across)
    if drawn is None:
        assert not entries
        return
    marks_ = [mark for lane in drawn.lanes.values() for mark in lane]
    assert sorted(line.anchor for _, line in marks_) == sorted(
        anchor(it.source, it.id) for it in entries
    )
    assert all(
        {line.entry.source for _, line in lane} == {source} for source, lane in drawn.lanes.items()
    )
    assert [turn for _, turn in drawn.rules] == sorted(across, key=lambda it: it.t)
    places = [x for x, _ in (*marks_, *drawn.rules, *drawn.ticks)]
    assert all(190 <= x <= 902 for x in places)
    by_time = sorted(marks_, key=lambda mark: mark[1].entry.t)
    assert [x for x, _ in by_time] == sorted(x for x, _ in marks_)
    assert all(b >= a + 96 for (a, _), (b, _) in pairwise(drawn.ticks))


def test_a_long_gap_is_cut_out_and_labelled_with_its_length() -> None:
    day = 86_400_000_000
    shown = [
        entry("10:00:00"),
        entry("10:30:00"),
        entry("11:00:00"),
        entry("09:00:00", t=at("09:00:00") + day),
    ]
    drawn = chart(lines(shown), [])
    assert drawn is not None
    ((gap, words),) = drawn.breaks
    assert words == "22 h 00 min"
    first, middle, before, after = (x for x, _ in drawn.lanes["ci"])
    assert middle - first == pytest.approx(before - middle, abs=0.2)
    assert after - before < middle - first
    assert before < gap < after
    assert [words for _, words in drawn.ticks] == ["02-07 10:00", "02-07 11:00", "02-08 09:00"]


def test_two_moments_far_apart_are_drawn_with_all_the_time_between_them() -> None:
    drawn = chart(lines([entry("00:00:00"), entry("23:00:00")]), [])
    assert drawn is not None
    assert not drawn.breaks


# What it says


def test_equal_times_share_a_moment_and_a_long_silence_is_written() -> None:
    assert laid_out(
        entry("10:00:00"),
        entry("10:05:00"),
        entry("10:05:00", id="b", title="Same"),
        entry("10:27:00"),
    ) == [
        (
            "07",
            [
                "10:00:00 At 10:00:00",
                "10:05:00 At 10:05:00+Same",
                "(22 min)",
                "10:27:00 At 10:27:00",
            ],
        )
    ]


@pytest.mark.parametrize(("second", "silence"), [("10:10:00", False), ("10:10:00.000001", True)])
def test_only_more_than_ten_minutes_are_a_silence(second: str, *, silence: bool) -> None:
    assert any("min)" in it for it in laid_out(entry("10:00:00"), entry(second))[0][1]) is silence


def test_a_silence_begins_after_the_last_repeat() -> None:
    shown = [entry("10:00:00"), entry("10:05:00"), entry("10:25:00")]
    repeats = [Repeats(0, 9, at("10:20:00"), "", "", [], 1)]
    assert not [it for it in days(lines(shown, repeats=repeats), [])[0][1] if isinstance(it, str)]
    assert [it for it in days(lines(shown), [])[0][1] if isinstance(it, str)]


def test_no_gap_is_shown_next_to_an_imprecise_time() -> None:
    rough = entry("10:00:00", p=Precision.HOUR)
    assert laid_out(rough, entry("10:59:00")) == [
        ("07", ["≈10 h At 10:00:00", "10:59:00 At 10:59:00"])
    ]


def test_a_milestone_stands_before_what_happened_at_its_time_and_each_day_has_a_heading() -> None:
    late, next_day = (
        entry("23:00:00"),
        entry("10:00:00", t=at("10:00:00") + 86_400_000_000, title="Next"),
    )
    across = [Turn(at("23:00:00"), Precision.EXACT, "detected")]
    assert laid_out(late, next_day, across=across) == [
        ("07", ["detected", "23:00:00 At 23:00:00", "(11 h 00 min)"]),
        ("08", ["10:00:00 Next"]),
    ]


CLOCKS = [
    ("exact", "10:04:12"),
    ("second", "10:04:12"),
    ("minute", "≈10:04"),
    ("hour", "≈10 h"),
    ("day", "that day"),
]


def test_a_clock_shows_no_more_than_is_known() -> None:
    with every() as case:
        for precision, words in CLOCKS:
            with case(precision, words):
                assert clock(at("10:04:12"), Precision(precision)) == words


SHIFTS = [
    (120_000, "+2 min"),
    (-90_500, "\N{MINUS SIGN}1 min 30.5 s"),
    (-400, "\N{MINUS SIGN}400 ms"),
    (3_660_000, "+1 h 1 min"),
    (0, ""),
]


def test_a_shifted_clock_says_by_how_much() -> None:
    with every() as case:
        for ms, words in SHIFTS:
            with case(ms, words):
                shifted = one(
                    entry("10:04:12", t=at("10:04:12") + ms * 1000),
                    decision(Op.CLOCK_OFFSET, source="ci"),
                )
                assert (shifted.shift, shifted.was) == (words, "")
                assert bool(shifted.decided) == bool(ms)


def test_a_corrected_entry_shows_what_was_there_before_and_the_edits_that_count() -> None:
    it = entry(
        "10:40:00",
        occurred_at=at("10:04:12"),
        title="Deploy",
        original_title="deploy #7",
        hidden=True,
    )
    edits = [
        decision(Op.SET_TITLE, of=it, value={"title": "Other"}),
        decision(Op.HIDE, of=it, reason="A test"),
        decision(Op.SET_TIME, of=it, value={"at": "x"}, reason="By the log"),
        decision(Op.SET_TITLE, of=it, value={"title": "Deploy"}),
        decision(Op.CLOCK_OFFSET, source="ci", value={"ms": 1}),
        decision(Op.PIN, of=it),
    ]
    line = one(it, *edits)
    assert (line.was, line.shift) == ("10:04:12", "")
    assert line.decided == [edits[2], edits[3], edits[1]]
    assert one(entry("10:40:00"), *edits).decided == []


def test_an_earlier_day_is_named_where_a_time_was_corrected_and_when_people_knew_much_later() -> (
    None
):
    it = entry(
        "10:40:00",
        occurred_at=at("10:04:12") - 86_400_000_000,
        known_at=at("10:00:00") + 86_400_000_000,
    )
    line = one(it, decision(Op.SET_TIME, of=it, value={"at": "x"}))
    assert line.was == "2026-02-06 10:04:12"
    assert line.learned_at == "2026-02-08 10:00"
    assert one(entry("10:00:00", known_at=at("10:40:00"))).learned_at == "10:40"
    assert one(entry("10:00:00", known_at=at("10:00:00"))).learned_at == ""


def test_remarks_stand_with_their_entry_and_what_is_a_remark_says_what_sort() -> None:
    root = remark("Roll back", "decision", occurred_at=DAY)
    about = EntryRef(source="human", id=f"annotation:{root.id}")
    beneath = remark("Why?", "question", entry=about, state=AnnotationState.OPEN)
    said = entry(
        "10:00:00", source="human", id=f"annotation:{root.id}", kind="note", title="Roll back"
    )
    other = entry("11:00:00", id=f"annotation:{root.id}", kind="note")
    first, second = lines([said, other], remarks=[root, beneath])
    assert (first.sign, first.text, list(first.beneath)) == ("decision", "", [beneath])
    assert (second.sign, second.remark, list(second.beneath)) == ("note", None, [])


def test_the_reason_of_a_move_stands_with_it_and_the_narrative_is_what_people_did_or_pinned() -> (
    None
):
    change = StatusChange(
        id=NAMESPACE,
        at=1,
        from_status="RESOLVED",
        to_status="IN_PROGRESS",
        reason="It is back",
        occurred_at=1,
    )
    moved = entry("10:00:00", source="postfacta", id=f"status:{NAMESPACE}", kind="status")
    shown = lines(
        [moved, entry("10:01:00"), entry("10:02:00", pinned=True)],
        reasons={str(change.id): change.reason},
    )
    assert [line.text for line in shown] == ["It is back", "", ""]
    assert [is_narrative(line.entry) for line in shown] == [True, False, True]


@pytest.mark.parametrize(
    ("source", "kind", "narrated"),
    [
        ("chat", "action", True),
        ("manual/INC-1/chat", "note", True),
        ("manual/INC-1/pager", "page", False),
        ("pager", "page", False),
    ],
)
def test_the_narrative_holds_actions_and_notes_of_any_source(
    source: str, kind: str, *, narrated: bool
) -> None:
    assert is_narrative(entry("10:01:00", source=source, kind=kind)) is narrated


def test_the_anchor_of_an_entry_fits_an_address_and_tells_source_from_id() -> None:
    made = {anchor("a", "b c"), anchor("a b", "c"), anchor("a\n", "b"), anchor("ä/#?", "")}
    assert len(made) == 4
    assert all(it.isascii() and it.replace("-", "").isalnum() for it in made)


# Milestones and durations


def mark(when: str, precision: str = "exact", basis: Basis = Basis.GIVEN) -> Mark:
    p = Precision(precision)
    return Mark(p.floor(at(when)), p, basis)


def test_milestones_come_in_order_with_the_time_since_the_first() -> None:
    found = {
        "declared": mark("09:00:00"), "resolved": mark("12:00:00"), "impact_started": mark("10:00:00"),
        "detected": mark("10:06:00", basis=Basis.DERIVED), "acknowledged": mark("10:00:30", "minute"),
    }  # fmt: skip
    assert [(it.name, it.since, it.is_derived) for it in turns(found)] == [
        ("acknowledged", "", False),
        ("impact_started", "within a minute", False),
        ("detected", "+6 min", True),
        ("resolved", "+2 h 00 min", False),
    ]


def strip(measured: Mapping[Phase, Duration]) -> list[tuple[str, str, str]]:
    """Render durations, and read the name of each, its length and what is said of it."""
    page = bytes(PAGES.page("_durations.html", {"measured": measured}).body).decode()
    return re.findall("<dt>(.*?)</dt><dd><strong>(.*?)</strong><span>(.*?)</span>", page)


def test_a_duration_that_is_not_known_is_a_dash_and_words_and_never_zero() -> None:
    found = {
        "declared": mark("10:00:00"), "impact_started": mark("10:04:00", "minute"),
        "detected": mark("10:04:00", "minute"), "acknowledged": mark("10:00:00"),
    }  # fmt: skip
    told = strip(durations(found, is_open=True))
    assert told == [
        ("To detect", UNKNOWN, "within a minute: not known more precisely"),
        ("To acknowledge", UNKNOWN, "contradictory: it ends before it begins"),
        ("To mitigate", UNKNOWN, "still open"),
        ("To resolve", UNKNOWN, "still open"),
        ("Open for", UNKNOWN, "still open"),
    ]
    ended = strip(
        durations({**found, "resolved": mark("11:05:00", basis=Basis.DERIVED)}, is_open=False)
    )
    assert [it[1:] for it in ended[2:]] == [
        (UNKNOWN, "unknown"),
        ("1 h 01 min", "derived"),
        ("1 h 05 min", "derived"),
    ]


@given(worlds())
def test_a_length_is_shown_exactly_where_it_is_known(facts: Facts) -> None:
    known, is_open = marks(facts)
    measured = durations(known, is_open=is_open)
    shown = strip(measured)
    assert [length == UNKNOWN for _, length, _ in shown] == [
        it.seconds is None for it in measured.values()
    ]


# What people type


TYPED = [
    ("2026-02-07", "2026-02-07T00:00:00.000000Z", "day"),
    (" 2026-02-07 10:04 ", "2026-02-07T10:04:00.000000Z", "minute"),
    ("2026-02-07 10:04+02:00", "2026-02-07T08:04:00.000000Z", "minute"),
    ("2026-02-07T10:04:12Z", "2026-02-07T10:04:12.000000Z", "second"),
    ("2026-02-07 10:04:12.5 UTC", "2026-02-07T10:04:12.500000Z", "exact"),
]


def test_a_time_says_by_its_digits_how_closely_it_is_known() -> None:
    with every() as case:
        for text, instant, precision in TYPED:
            with case(text, instant, precision):
                assert read_instant(text) == {"at": instant, "precision": precision}


def test_a_time_in_words_is_as_close_as_its_digits() -> None:
    now = datetime(2026, 2, 7, 10, 30, 12, tzinfo=UTC)
    for text, instant, precision in (
        ("10:04", "2026-02-07T10:04:00.000000Z", "minute"),
        ("10:04:12", "2026-02-07T10:04:12.000000Z", "second"),
        ("now", "2026-02-07T10:30:12.000000Z", "exact"),
        ("-30s", "2026-02-07T10:29:42.000000Z", "second"),
        ("90 sec ago", "2026-02-07T10:28:42.000000Z", "second"),
        ("10.04", "2026-02-07T10:04:00.000000Z", "minute"),
        ("-1h30m", "2026-02-07T09:00:12.000000Z", "minute"),
        ("-5m", "2026-02-07T10:25:12.000000Z", "minute"),
        ("yesterday 22:10", "2026-02-06T22:10:00.000000Z", "minute"),
    ):
        assert read_instant(text, now) == {"at": instant, "precision": precision}


@given(times, st.sampled_from([it for it in Precision if it is not Precision.HOUR]))
def test_a_time_that_is_sent_back_as_it_was_shown_means_the_same(
    t: int, precision: Precision
) -> None:
    t = precision.floor(t)
    typed = read_instant(stamp(t, precision))
    assert micros(datetime.fromisoformat(str(typed["at"]))) == t
    assert typed["precision"] == precision


ENTRY = {"source": "ci", "id": "7", "reason": "By the log"}


EDITS: list[tuple[dict[str, str], object]] = [
    ({"op": "set_time", "value": ""}, None),
    ({"op": "set_title", "value": "Deploy"}, {"title": "Deploy"}),
    ({"op": "set_title", "value": " "}, None),
    ({"op": "clock_offset", "value": "-90.5"}, {"ms": -90_500}),
    ({"op": "clock_offset", "value": "+120"}, {"ms": 120_000}),
    ({"op": "clock_offset", "value": "-0"}, {"ms": 0}),
]


def test_an_edit_is_read_from_a_form() -> None:
    with every() as case:
        for fields, value in EDITS:
            with case(fields, value):
                edit = read_edit({**ENTRY, **fields})
                assert edit.op == fields["op"]
                assert edit.model_dump()["value"] == value


BAD_EDITS = [
    ({"op": "set_time", "value": "10:04"}, "/value"),
    ({"op": "set_time", "value": "2026-02-07", "reason": ""}, "/reason"),
    ({"op": "clock_offset", "value": "two"}, "/value"),
    ({"op": "clock_offset", "value": "90000"}, "/value/ms"),
    ({"op": "hide", "reason": ""}, "/reason"),
    ({"op": "attach"}, "/op"),
    ({"op": "milestone", "name": "lunch", "value": "2026-02-07"}, "/value/name"),
]


def test_a_bad_edit_names_the_field() -> None:
    with every() as case:
        for fields, pointer in BAD_EDITS:
            with case(fields, pointer):
                with pytest.raises(InvalidFieldsError) as refused:
                    read_edit({**ENTRY, **fields})
                assert [error.pointer for error in refused.value.errors] == [pointer]
