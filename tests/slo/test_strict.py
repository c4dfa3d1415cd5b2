"""Nothing in a file is overlooked, and each refusal says where."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pytest

from postfacta_slo.promise.promql import SloError
from postfacta_slo.promise.reading import Faults, StrictMapping, seconds
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
