"""A section as a form: whatever is stored is shown so that sending it back means the same."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from postfacta_app.errors import InvalidFieldsError
from postfacta_app.postmortems.form import (
    LISTS,
    SECTIONS,
    compare,
    draft,
    entry_text,
    label,
    rows,
    shown,
    typed_form as typed,
)
from postfacta_app.postmortems.model import (
    Category,
    Content,
    Detection,
    Factor,
    Impact,
    Quantity,
    Trigger,
    TriggerKind,
)
from postfacta_app.timeline.model import EntryRef
from tests.kit.every import every

# What a form can hold: line breaks within, no space around any line, nothing but text.
_LINE = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp", "Zs", "Cs")),
    min_size=1,
    max_size=8,
)
_TEXT = st.lists(_LINE, min_size=1, max_size=2).map("\n".join)
_MAYBE = st.one_of(st.just(""), _TEXT)
_SLUG = st.from_regex("[a-z0-9][a-z0-9-]{0,8}", fullmatch=True)
_NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
_ENTRIES = st.builds(EntryRef, source=_NAME, id=_NAME.map(str.strip).filter(bool))
_FACTOR = st.builds(
    Factor,
    slug=_SLUG,
    category=st.sampled_from(Category),
    statement=_TEXT,
    safeguard=st.none() | _TEXT,
    why_it_made_sense=st.none() | _TEXT,
    evidence=st.lists(_ENTRIES, max_size=2),
)
_CONTENT = st.builds(
    Content,
    summary=_MAYBE,
    impact=st.builds(
        Impact,
        description=_MAYBE,
        users_affected=st.none() | st.integers(0, 10**12),
        quantities=st.lists(
            st.builds(
                Quantity, name=_LINE, value=st.floats(-1e300, 1e300), unit=st.just("") | _LINE
            ),
            max_size=3,
        ),
    ),
    detection=st.builds(Detection, how=_MAYBE, could_be_sooner=_MAYBE),
    trigger=st.builds(
        Trigger, kind=st.sampled_from(TriggerKind), description=_MAYBE, entry=st.none() | _ENTRIES
    ),
    response=_MAYBE,
    factors=st.lists(_FACTOR, max_size=2, unique_by=lambda it: it.slug),
    **{name: st.lists(_TEXT, max_size=2) for name in LISTS},
)


@given(_CONTENT)
def test_what_is_shown_means_what_is_stored(content: Content) -> None:
    for section in SECTIONS:
        form = typed(section, shown(section, content))
        assert draft(content, section, form, message="").content == content


@given(_CONTENT, _CONTENT)
def test_a_section_is_all_that_its_form_changes(before: Content, after: Content) -> None:
    for section in SECTIONS:
        changed = draft(before, section, typed(section, shown(section, after)), message="").content
        assert getattr(changed, section) == getattr(after, section)
        others = set(SECTIONS) - {section}
        assert changed.model_dump(include=others) == before.model_dump(include=others)
        assert set(compare(before, changed)) <= {section}


@given(_CONTENT, _CONTENT)
def test_a_difference_holds_every_line_of_both(before: Content, after: Content) -> None:
    assert compare(before, before) == {}
    back = compare(after, before)
    for section, lines in compare(before, after).items():
        forward = [line[1:] for line in lines if line[0] != "-"]
        backward = [line[1:] for line in lines if line[0] != "+"]
        assert forward == [line[1:] for line in back[section] if line[0] != "+"]
        assert backward == [line[1:] for line in back[section] if line[0] != "-"]


def test_a_difference_keeps_the_lines_that_both_have() -> None:
    before, after = Content(summary="one\ntwo\nthree"), Content(summary="one\n2\nthree")
    assert compare(before, after) == {"summary": [" one", "-two", "+2", " three"]}


def test_a_section_of_very_many_lines_is_shown_whole() -> None:
    before, after = Content(summary="a\n" * 600 + "b"), Content(summary="a\n" * 600 + "c")
    assert [line[0] for line in compare(before, after)["summary"]] == ["-"] * 601 + ["+"] * 601


def test_rows_without_text_are_left_out_and_the_others_move_up() -> None:
    form = typed(
        "factors", {"factors-3-slug": " a ", "factors-7-slug": "b", "factors-5-slug": "  "}
    )
    assert form == {"factors_none_found": "", "factors-0-slug": "a", "factors-1-slug": "b"}
    assert [row["slug"] for row in rows("factors", form)] == ["a", "b"]


BROKEN: list[tuple[str, dict[str, str], set[str]]] = [
    ("impact", {"impact-users_affected": "many"}, {"impact-users_affected"}),
    ("impact", {"impact-users_affected": "-1"}, {"impact-users_affected"}),
    (
        "impact",
        {"impact-quantities-4-name": "orders", "impact-quantities-4-value": "x"},
        {"impact-quantities-0-value"},
    ),
    (
        "impact",
        {"impact-quantities-0-value": "nan"},
        {"impact-quantities-0-name", "impact-quantities-0-value"},
    ),
    ("trigger", {"trigger-kind": "load", "trigger-entry": "ci"}, {"trigger-entry"}),
    ("trigger", {"trigger-kind": "load", "trigger-entry": "[" * 5000}, {"trigger-entry"}),
    ("trigger", {"trigger-kind": "load", "trigger-entry": '["a"]'}, {"trigger-entry"}),
    ("trigger", {"trigger-kind": "bad luck"}, {"trigger-kind"}),
    (
        "factors",
        {"factors-0-slug": "No Canary"},
        {"factors-0-slug", "factors-0-category", "factors-0-statement"},
    ),
    (
        "factors",
        {
            f"factors-{n}-{name}": text
            for n in (0, 1)
            for name, text in (("slug", "a"), ("category", "design"), ("statement", "s"))
        },
        {"factors"},
    ),
    (
        "factors",
        {
            "factors-0-slug": "a",
            "factors-0-category": "design",
            "factors-0-statement": "s",
            "factors-0-evidence": "ci 1\nci",
        },
        {"factors-0-evidence"},
    ),
    (
        "factors",
        {
            "factors-0-slug": "a",
            "factors-0-category": "design",
            "factors-0-statement": "s",
            "factors_none_found": "yes",
        },
        {"factors"},
    ),
    ("surprises", {"surprises": "one\n" + "x" * 20_001}, {"surprises"}),
    ("summary", {"summary": "x" * 20_001}, {"summary"}),
]


def test_an_error_has_the_name_of_its_field() -> None:
    with every() as case:
        for section, fields, names in BROKEN:
            with case(section, names):
                with pytest.raises(InvalidFieldsError) as refused:
                    draft(Content(), section, typed(section, fields), message="")
                assert {error.pointer for error in refused.value.errors} == names


def test_a_message_has_a_bound_too() -> None:
    with pytest.raises(InvalidFieldsError) as refused:
        draft(Content(), "summary", {"summary": "s"}, message="x" * 501)
    assert [error.pointer for error in refused.value.errors] == ["message"]


def test_an_item_may_have_several_lines() -> None:
    form = typed("surprises", {"surprises": "one\n  goes on\n\ntwo\n"})
    assert draft(Content(), "surprises", form, message="").content.surprises == [
        "one\ngoes on",
        "two",
    ]


def test_entries_and_fields_are_called_what_people_can_read() -> None:
    assert entry_text("ci", "deploy 7") == "ci deploy 7"
    assert entry_text("my ci", "7") == '["my ci", "7"]'
    assert label("factors-2-slug") == "Short name (no. 3)"
    assert label("summary") == "Summary"
