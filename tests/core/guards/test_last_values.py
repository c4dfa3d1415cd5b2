"""The last value of each key is kept within its bounds: an age, a number, and bytes."""

from __future__ import annotations

import math

from hypothesis import given, strategies as st

from postfacta_core.guards._last_values import LastValues


def values_of(
    max_age: float = math.inf, max_entries: int = 100, max_bytes: float = math.inf
) -> LastValues[str]:
    return LastValues[str](max_age, max_entries, max_bytes)


def put(
    values: LastValues[str], key: str, value: str = "value", *, at: float = 0.0, size: int = 0
) -> None:
    values.keep(key, value, began=at, generation=values.generation, size=size)


def keys(values: LastValues[str], now: float = 0.0) -> str:
    return "".join(key for key in "abcdef" if values.find(key, now))


def test_a_value_is_given_with_its_age_until_it_is_too_old() -> None:
    values = values_of(max_age=10.0)
    put(values, "a", at=5.0)
    assert values.find("a", 14.9) == ("value", 14.9 - 5.0)
    assert (values.find("a", 15.0), len(values), values.find("a", 6.0)) == (None, 0, None)


def test_of_two_calls_at_once_the_one_that_began_later_is_kept() -> None:
    values = values_of()
    put(values, "a", "newer", at=2.0)
    put(values, "a", "older", at=1.0)
    assert values.find("a", 2.0) == ("newer", 0.0)
    put(values, "a", "newest", at=2.0)
    assert values.find("a", 2.0) == ("newest", 0.0)


def test_what_was_asked_for_before_something_was_forgotten_is_not_kept() -> None:
    values = values_of()
    put(values, "a")
    put(values, "b")
    before = values.generation
    values.clear()
    values.keep("b", "late", began=9.0, generation=before)
    assert (keys(values), len(values)) == ("", 0)
    put(values, "b")
    assert keys(values) == "b"


def test_of_too_many_values_the_one_that_was_not_used_for_longest_goes() -> None:
    values = values_of(max_entries=3)
    for key in "abc":
        put(values, key)
    assert values.find("a", 0.0)
    put(values, "d")
    assert keys(values) == "acd"


def test_of_too_many_bytes_the_oldest_go_and_what_is_larger_than_all_is_not_kept() -> None:
    values = values_of(max_bytes=100)
    put(values, "a", size=50)
    put(values, "b", size=50)
    assert keys(values) == "ab"
    put(values, "c", size=1)
    assert keys(values) == "bc"
    put(values, "b", size=200)
    assert keys(values) == "c"


def test_what_was_dropped_frees_its_bytes_and_lets_a_call_under_way_be_kept() -> None:
    values = values_of(max_bytes=100)
    put(values, "a", size=100)
    values.drop("a")
    values.drop("a")
    put(values, "b", size=100)
    values.clear()
    put(values, "c", size=100)
    assert keys(values) == "c"


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 60), st.booleans()), max_size=60)
)
def test_whatever_comes_and_goes_the_bounds_hold_and_the_last_that_fits_is_there(
    steps: list[tuple[str, int, bool]],
) -> None:
    values = values_of(max_entries=3, max_bytes=100)
    for number, (key, size, goes) in enumerate(steps):
        value = f"{number} {size}"
        put(values, key, value, size=size)
        assert values.find(key, 0.0) == (value, 0.0)
        if goes:
            values.drop(key)
            assert values.find(key, 0.0) is None
        found = [values.find(other, 0.0) for other in "abcde"]
        there = [int(it[0].split()[1]) for it in found if it]
        assert (len(there) <= 3, sum(there) <= 100) == (True, True)
