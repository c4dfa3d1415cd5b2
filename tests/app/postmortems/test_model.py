"""The rules of post-mortems hold for every content and every way through the states."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from postfacta_app.errors import IllegalTransitionError, InvalidFieldsError
from postfacta_app.postmortems.model import (
    Content,
    Draft,
    Stage,
    Transition,
    lacks,
    move,
    next_stage,
)
from postfacta_app.web.body import parse
from tests.app.desk import FULL
from tests.kit.every import every

# Written out from the design (section 6.2), and nothing of it is taken from the code.
ALLOWED = {
    None: {"waived"},
    "draft": {"in_review", "waived"},
    "in_review": {"published", "draft", "waived"},
    "published": {"draft"},
    "waived": {"draft"},
}
stages = st.sampled_from([None, *Stage])
messages = st.sampled_from([None, "Nobody was hit."])
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
contents = st.builds(
    Content,
    summary=texts,
    response=texts,
    went_well=st.lists(texts.filter(bool), max_size=3),
    factors_none_found=st.booleans(),
)


@given(stages, st.sampled_from(list(Stage)), messages)
def test_a_post_mortem_moves_as_the_design_says_and_in_no_other_way(
    state: Stage | None, to: Stage, message: str | None
) -> None:
    change = Transition(to=to, message=message)
    if to == state:
        assert move(state, change) is False
    elif to not in ALLOWED[state]:
        with pytest.raises(IllegalTransitionError) as refused:
            move(state, change)
        assert set(refused.value.extra["allowed"]) == ALLOWED[state]  # type: ignore[call-overload]  # a list
    elif to == "waived" and message is None:
        with pytest.raises(InvalidFieldsError) as incomplete:
            move(state, change)
        assert [error.pointer for error in incomplete.value.errors] == ["/message"]
    else:
        assert move(state, change) is True


@given(stages)
def test_new_content_is_never_published_unseen(state: Stage | None) -> None:
    assert next_stage(state) == ("in_review" if state == "in_review" else "draft")


@given(contents)
def test_a_content_is_the_same_after_it_was_stored(content: Content) -> None:
    assert Content.model_validate_json(content.model_dump_json()) == content


WHOLE = {"summary", "impact", "factors", "owners", "evidence"}


@given(st.sets(st.sampled_from(sorted(WHOLE))), st.booleans(), st.sampled_from(["", " \n"]))
def test_all_that_is_missing_is_listed_and_nothing_else(
    there: set[str],
    none_found: bool,  # noqa: FBT001 - drawn by hypothesis
    blank: str,
) -> None:
    given_ = {name: FULL[name] if name in there else blank for name in ("summary",)}
    given_["impact"] = FULL["impact"] if "impact" in there else {"description": blank}
    if "factors" in there:
        given_ |= {"factors_none_found": True} if none_found else {"factors": FULL["factors"]}
    content = Content.model_validate(given_)
    missing = lacks(content, has_owners="owners" in there, has_evidence="evidence" in there)
    assert set(missing) == WHOLE - there


FACTOR = FULL["factors"][0]
REFUSED: dict[str, tuple[Any, str]] = {
    "long text": ({"summary": "x" * 20_001}, "/content/summary"),
    "too many": ({"surprises": ["x"] * 51}, "/content/surprises"),
    "empty item": ({"went_well": [""]}, "/content/went_well/0"),
    "other trigger": ({"trigger": {"kind": "human error"}}, "/content/trigger/kind"),
    "root cause": ({"root_cause": "a person"}, "/content/root_cause"),
    "same slug twice": ({"factors": [FACTOR, FACTOR]}, "/content/factors"),
    "no slug": ({"factors": [FACTOR | {"slug": "No Slug"}]}, "/content/factors/0/slug"),
    "factors and none": ({"factors": [FACTOR], "factors_none_found": True}, "/content"),
    "a word for a truth": ({"factors_none_found": "yes"}, "/content/factors_none_found"),
    "no whole number": ({"impact": {"users_affected": 1.5}}, "/content/impact/users_affected"),
    "less than nobody": ({"impact": {"users_affected": -1}}, "/content/impact/users_affected"),
    "a text for a number": ({"impact": {"users_affected": "7"}}, "/content/impact/users_affected"),
    "no number": (
        {"impact": {"quantities": [{"name": "q", "value": "1"}]}},
        "/content/impact/quantities/0/value",
    ),
    "no entry": (
        {"trigger": {"entry": {"source": "", "id": "x"}}},
        "/content/trigger/entry/source",
    ),
}


def test_what_breaks_a_bound_is_refused_and_named() -> None:
    with every() as case:
        for kind, (content, pointer) in REFUSED.items():
            with case(kind):
                with pytest.raises(InvalidFieldsError) as refused:
                    parse(Draft, {"content": content})
                assert [error.pointer for error in refused.value.errors] == [pointer]


def test_the_largest_texts_and_lists_are_taken() -> None:
    content = {"summary": "ä" * 20_000, "open_questions": ["?"] * 50}
    assert (
        json.loads(parse(Draft, {"content": content}).model_dump_json())["content"].items()
        >= content.items()
    )
