"""A wrong setting is refused with its field, its value, the rule and an example."""

from __future__ import annotations

import math

import pytest

from postfacta_core import validation
from postfacta_core.events import Mode
from tests.kit.every import every


def test_a_refusal_names_field_value_rule_and_example() -> None:
    with pytest.raises(
        ValueError,
        match=r"^Retry\.attempts must be a whole number at least 1, not 0; for example attempts=3$",
    ):
        validation.whole("Retry.attempts", 0, example="attempts=3")


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ValueError, match=r"not 'x{96}\.\.\.; for example"):
        validation.name("Retry", "x" * 1000)


def test_names_are_short_and_plain() -> None:
    cases: list[object] = ["", "a b", "ü", "x" * 65, "a\n", 3, None, b"a"]
    with every() as case:
        for value in cases:
            with case(value), pytest.raises(ValueError, match="Retry must be a text of 1 to 64"):
                validation.name("Retry", value)


def test_a_name_is_returned() -> None:
    assert validation.name("Retry", "api.v1:/orders_*-2") == "api.v1:/orders_*-2"


@pytest.mark.parametrize("mode", [Mode.SHADOW, "shadow"], ids=["member", "text"])
def test_text_and_member_mean_the_same(mode: object) -> None:
    assert validation.choice("Retry.mode", mode, Mode) is Mode.SHADOW


def test_another_word_is_refused_with_the_choices() -> None:
    with every() as case:
        for mode in ("ENFORCE", "banana", "", None, 1, True):
            with (
                case(mode),
                pytest.raises(
                    ValueError, match=r"Retry\.mode must be one of 'enforce', 'shadow', 'off', not"
                ),
            ):
                validation.choice("Retry.mode", mode, Mode)


def test_seconds_are_finite_and_above_zero() -> None:
    cases: list[object] = [0, -1, math.nan, math.inf, "5", None, True]
    with every() as case:
        for value in cases:
            with (
                case(value),
                pytest.raises(
                    ValueError,
                    match=r"Timeout must be a finite number above 0, not .*; for example 5\.0",
                ),
            ):
                validation.seconds("Timeout", value)


def test_numbers_keep_their_bounds() -> None:
    assert validation.number("x", 1, at_least=1, at_most=1) == 1
    assert validation.seconds("x", math.inf, finite=False) == math.inf
    with pytest.raises(ValueError, match="x must be a number at least 0 and at most 1, not nan"):
        validation.number("x", math.nan, at_least=0, at_most=1, finite=False)
    with pytest.raises(ValueError, match="x must be a finite number, not inf"):
        validation.number("x", math.inf)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 4])
def test_whole_numbers_are_int(value: object) -> None:
    with pytest.raises(ValueError, match="x must be a whole number at least 0 and at most 3"):
        validation.whole("x", value, at_least=0, at_most=3)
    assert validation.whole("x", 3, at_least=0, at_most=3) == 3


def test_texts_and_objects_and_functions_are_distinguished() -> None:
    assert validation.text("x", "") == ""
    assert validation.instance("x", Mode.OFF, Mode, example="Mode.OFF") is Mode.OFF
    assert validation.function("x", len, example="len") is len
    with pytest.raises(ValueError, match="x must be a text, not 1"):
        validation.text("x", 1)
    with pytest.raises(ValueError, match="x must be a text that is not empty, not ''"):
        validation.text("x", "", empty=False)
    with pytest.raises(ValueError, match=r"x must be a Mode, not 'off'; for example Mode\.OFF"):
        validation.instance("x", "off", Mode, example="Mode.OFF")
    with pytest.raises(ValueError, match="x must be a function, not 1; for example len"):
        validation.function("x", 1, example="len")


def test_a_secret_is_shown_by_its_type_alone() -> None:
    assert validation.secret("x", "hunter2", example="a text") == "hunter2"
    with pytest.raises(
        ValueError, match="x must be a text, not <class 'bytes'>; for example a text"
    ):
        validation.secret("x", b"hunter2", example="a text")


@pytest.mark.parametrize("value", ["yes", 1, 0, None])
def test_flags_are_true_or_false(value: object) -> None:
    off = False
    assert validation.flag("x", off) is off
    with pytest.raises(ValueError, match="x must be True or False, not"):
        validation.flag("x", value)


@pytest.mark.parametrize("value", ["c", "", None, 1, ["a"]])
def test_a_wrong_choice_is_refused_with_all_choices(value: object) -> None:
    assert validation.one_of("x", "a", ("a", "b")) == "a"
    with pytest.raises(ValueError, match=r"x must be one of 'a', 'b', not .*; for example 'a'"):
        validation.one_of("x", value, ("a", "b"))


def test_a_list_of_texts_is_no_text() -> None:
    cases: list[object] = ["text", b"bytes", 3, None, [3], iter(["a"])]
    with every() as case:
        for value in cases:
            with case(value):
                assert validation.texts("x", {"a"}, example="") == ("a",)
                with pytest.raises(ValueError, match="x must be a list of texts, not"):
                    validation.texts("x", value, example='["a"]')


@pytest.mark.parametrize(
    "value", [BaseException, KeyboardInterrupt, ValueError(), [ValueError], (ValueError, int)]
)
def test_types_of_errors_are_exceptions(value: object) -> None:
    assert validation.error_types("x", ValueError, example="") == (ValueError,)
    assert validation.error_types("x", (), example="") == ()
    with pytest.raises(ValueError, match="x must be a type of Exception or a tuple of them, not"):
        validation.error_types("x", value, example="ValueError")


def test_functions_are_checked_by_their_names() -> None:
    validation.functions("Retry", clock=len)
    with pytest.raises(ValueError, match=r"Retry\.luck must be a function, not 4"):
        validation.functions("Retry", clock=len, luck=4)


def test_bounds_are_said_as_they_are() -> None:
    with pytest.raises(ValueError, match="x must be a finite number at least 0 and below 1, not 1"):
        validation.number("x", 1, at_least=0, below=1)
    with pytest.raises(ValueError, match="x must be a finite number, not 1000"):
        validation.number("x", 10**400)
