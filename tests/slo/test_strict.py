"""Nothing in a file is overlooked, and each refusal says where."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pytest

from postfacta_slo.promise.promql import SloError
from postfacta_slo.promise.reading import Faults, StrictMapping, refuse, seconds
from tests.kit.every import every


def node(**keys: object) -> StrictMapping:
    return StrictMapping(keys, "file: spec", {})


@pytest.mark.parametrize(
    ("text", "length"), [("30s", 30), ("5m", 300), ("1h", 3600), ("30d", 2592000), ("4w", 2419200)]
)
def test_a_duration_is_read(text: str, length: int) -> None:
    assert seconds(text) == length


def test_what_has_no_fixed_length_is_no_duration() -> None:
    with every() as case:
        for text in ("", "5", "m", "1.5h", "-5m", "5 m", "1M", "1Q", "1Y", "5min", "٣m"):
            with case(text), pytest.raises(SloError, match="must be a duration"):
                seconds(text)


@pytest.mark.parametrize("value", [None, [], "text", 1])
def test_what_is_no_mapping_is_refused_and_nothing_is_made_of_it(value: object) -> None:
    faults: Faults = {}
    one = StrictMapping(value, "file", faults)
    assert (one.text("a"), one.number("b"), one.child("c").seconds("d")) == ("", 0.0, 0)
    one.end()
    assert one.build(str) is None
    assert [*faults] == ["file"]
    assert faults["file"].startswith("must be a mapping, not ")


def test_a_key_must_be_a_text() -> None:
    faults: Faults = {}
    StrictMapping({1: 2}, "file", faults)
    assert faults == {"file": "has a key that is not a text: 1"}


def test_an_unread_key_is_refused_with_its_path() -> None:
    one = node(name="a", typo=1)
    one.text("name")
    one.end()
    assert one.faults == {
        "file: spec.typo": "is not known here and would be ignored; known are: name"
    }
    other = node(typo=1)
    other.end()
    assert other.faults["file: spec.typo"].endswith("known are: none")
    passed = node(typo=1)
    passed.pass_over("typo", "another")
    passed.end()
    assert passed.faults == {}


def test_a_key_that_is_there_without_a_value_is_not_there() -> None:
    assert "name" not in node(name=None)
    assert "name" in node(name="")


REFUSED: Sequence[tuple[Callable[[StrictMapping], object], object, str]] = [
    (lambda n: n.text("k"), None, "must be a text, and is missing"),
    (lambda n: n.text("k"), "", "must be a text"),
    (lambda n: n.text("k"), 1, "must be a text, not 1"),
    (lambda n: n.text("k", "default"), 2, "must be a text, not 2"),
    (lambda n: n.number("k"), "1", "must be a number, not '1'"),
    (lambda n: n.number("k"), True, "must be a number, not True"),
    (lambda n: n.number("k"), float("nan"), "must be a number"),
    (lambda n: n.number("k"), 10**400, "must be a number"),
    (lambda n: n.number("k"), None, "must be a number, and is missing"),
    (lambda n: n.listed("k").number("[1]"), [1, "a"], r"\[1\]: must be a number"),
    (lambda n: n.choice("k", "a", "b"), "c", "must be a or b, not 'c'"),
    (lambda n: n.choice("k", "a", "b", default="a"), ["a"], "must be a or b, not a list"),
    (lambda n: n.choice("k", "a"), None, "must be a, and is missing"),
    (lambda n: n.flag("k", default=True), 1, "must be true or false, not 1"),
    (lambda n: n.flag("k", default=False), "yes", "must be true or false"),
    (lambda n: n.seconds("k"), "5", "must be a duration"),
    (lambda n: n.child("k"), None, "must be a mapping, not nothing"),
    (lambda n: n.child("k", optional=True), [], "must be a mapping, not a list"),
    (lambda n: n.listed("k"), None, "must be a list"),
    (lambda n: n.children("k", optional=True), {}, "must be a list, not a dict"),
    (lambda n: n.children("k"), [{"a": 1}, 1], r"\[1\]: must be a mapping, not 1"),
    (lambda n: n.only("k"), None, "must be a list"),
    (lambda n: n.only("k"), [], "exactly one item, not 0"),
    (lambda n: n.only("k"), [{"a": 1}, {"b": 1}], "exactly one item, not 2"),
]


def test_a_value_of_another_kind_is_refused_with_its_path_and_once() -> None:
    with every() as case:
        for take, value, why in REFUSED:
            with case(take, value, why):
                one = node(k=value)
                take(one)
                ((place, told),) = one.faults.items()
                assert re.search(rf"^file: spec\.k.*{why}", f"{place}: {told}")
                assert one.build(str) is None


def test_what_is_optional_has_a_default() -> None:
    one = node()
    assert one.text("a", "") == ""
    assert one.flag("b", default=True) is True
    assert one.child("c", optional=True).keys == ()
    assert one.listed("d", optional=True).keys == ()
    assert one.raw("e") is None
    one.end()
    assert one.faults == {}


def test_what_is_there_is_taken_once() -> None:
    one = node(a="x", b=2, c=False, d={"e": "1m"}, f=[1, 2.5], g=[{"h": "only"}])
    assert (one.text("a"), one.number("b"), one.flag("c", default=True)) == ("x", 2.0, False)
    child = one.child("d")
    assert (child.path, child.seconds("e")) == ("file: spec.d", 60)
    assert one.child("d", optional=True, path="renamed").path == "renamed"
    listed = one.listed("f")
    assert [listed.number(place) for place in listed.keys] == [1.0, 2.5]
    only = one.only("g")
    assert (only.text("h"), only.path) == ("only", "file: spec.g[0]")
    one.end()
    assert one.faults == {}
    assert one.build(str, object="made") == "made"


def test_each_wrong_value_is_put_among_the_faults_and_reading_goes_on() -> None:
    faults: Faults = {}
    node = StrictMapping(
        {"text": 1, "flag": 1, "number": "1", "span": "1y", "list": {}, "more": 1}, "spec", faults
    )
    assert (node.text("text"), node.flag("flag", default=False), node.number("number")) == (
        "",
        True,
        0.0,
    )
    assert (node.seconds("span"), node.listed("list").keys) == (0, ())
    node.end()
    assert [*faults] == [
        f"spec.{key}" for key in ("text", "flag", "number", "span", "list", "more")
    ]
    # What only follows from another fault is not shown.
    node.wrong("follows", "")
    with pytest.raises(SloError, match=r"^6 things are wrong:\n  spec\.text: must be a text"):
        refuse(faults)
    refuse({})
    with pytest.raises(SloError, match=r"^spec: is wrong$"):
        refuse({"spec": "is wrong"})
