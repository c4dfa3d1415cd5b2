"""Nothing in a file is overlooked, and each refusal says where."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from postfacta_slo.promise.promql import SloError
from postfacta_slo.promise.reading import Faults, StrictMapping, seconds
from tests.kit.every import every


def node(**keys: object) -> StrictMapping:
    return StrictMapping(keys, "file: spec")


@pytest.mark.parametrize(
    ("text", "length"), [("30s", 30), ("5m", 300), ("1h", 3600), ("30d", 2592000), ("4w", 2419200)]
)
def test_a_duration_is_read(text: str, length: int) -> None:
    assert seconds(text, "here") == length


def test_what_has_no_fixed_length_is_no_duration() -> None:
    with every() as case:
        for text in ("", "5", "m", "1.5h", "-5m", "5 m", "1M", "1Q", "1Y", "5min", "٣m"):
            with case(text), pytest.raises(SloError, match="here: must be a duration"):
                seconds(text, "here")


@pytest.mark.parametrize("value", [None, [], "text", 1])
def test_what_is_no_mapping_is_refused(value: object) -> None:
    with pytest.raises(SloError, match="file: must be a mapping"):
        StrictMapping(value, "file")


def test_a_key_must_be_a_text() -> None:
    with pytest.raises(SloError, match="not a text: 1"):
        StrictMapping({1: 2}, "file")


def test_an_unread_key_is_refused_with_its_path() -> None:
    one = node(name="a", typo=1)
    one.text("name")
    with pytest.raises(
        SloError, match=r"file: spec\.typo: is not known here and would be ignored; known are: name"
    ):
        one.end()
    with pytest.raises(SloError, match="known are: none"):
        node(typo=1).end()


def test_a_key_that_is_there_without_a_value_is_not_there() -> None:
    assert "name" not in node(name=None)
    assert "name" in node(name="")


REFUSED: Sequence[tuple[Callable[[StrictMapping], object], object, str]] = [
    (lambda n: n.text("k"), None, "must be a text and is missing, not nothing"),
    (lambda n: n.text("k"), "", "must be a text"),
    (lambda n: n.text("k"), 1, "must be a text, not 1"),
    (lambda n: n.text("k", "default"), 2, "must be a text, not 2"),
    (lambda n: n.number("k"), "1", "must be a number, not '1'"),
    (lambda n: n.number("k"), True, "must be a number, not True"),
    (lambda n: n.number("k"), float("nan"), "must be a number"),
    (lambda n: n.number("k"), None, "must be a number, not nothing"),
    (lambda n: n.numbers("k"), [1, "a"], r"\[1\]: must be a number"),
    (lambda n: n.flag("k"), 1, "must be true or false, not 1"),
    (lambda n: n.flag("k"), None, "must be true or false"),
    (lambda n: n.flag("k", default=False), "yes", "must be true or false"),
    (lambda n: n.seconds("k"), "5", "must be a duration"),
    (lambda n: n.child("k"), None, "must be a mapping, not nothing"),
    (lambda n: n.child("k", optional=True), [], "must be a mapping, not a list"),
    (lambda n: n.items("k"), None, "must be a list"),
    (lambda n: n.items("k", optional=True), {}, "must be a list, not a dict"),
    (lambda n: n.only("k"), [], "exactly one item, not 0"),
    (lambda n: n.only("k"), [1, 2], "exactly one item, not 2"),
]


def test_a_value_of_another_kind_is_refused_with_its_path() -> None:
    with every() as case:
        for take, value, why in REFUSED:
            with case(take, value, why), pytest.raises(SloError, match=rf"^file: spec\.k.*{why}"):
                take(node(k=value))


def test_what_is_optional_has_a_default() -> None:
    one = node()
    assert one.text("a", "") == ""
    assert one.flag("b", default=True) is True
    assert one.child("c", optional=True).keys == ()
    assert one.items("d", optional=True) == ()
    assert one.raw("e") is None
    one.end()


def test_what_is_there_is_taken_once() -> None:
    one = node(a="x", b=2, c=False, d={"e": "1m"}, f=[1, 2.5], g=["only"])
    assert (one.text("a"), one.number("b"), one.flag("c")) == ("x", 2.0, False)
    child = one.child("d")
    assert (child.path, child.seconds("e")) == ("file: spec.d", 60)
    assert one.child("d", optional=True, path="renamed").path == "renamed"
    assert one.numbers("f") == (1.0, 2.5)
    assert one.only("g") == ("only", "file: spec.g[0]")
    one.end()


def test_with_a_place_for_faults_each_wrong_value_is_put_there_and_reading_goes_on() -> None:
    faults = Faults()
    node = StrictMapping(
        {"text": 1, "flag": 1, "number": "1", "span": "1y", "list": {}, "more": 1}, "spec", faults
    )
    assert (node.text("text"), node.flag("flag"), node.number("number")) == ("", True, 0.0)
    assert (node.seconds("span"), node.items("list")) == (3_600, ())
    node.end()
    assert [text.partition(": ")[0] for text in faults.texts] == [
        f"spec.{key}" for key in ("text", "flag", "number", "span", "list", "more")
    ]
    with pytest.raises(SloError, match=r"^6 things are wrong:\n  spec\.text: must be a text"):
        faults.end()
