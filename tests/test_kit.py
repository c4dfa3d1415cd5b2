"""What the tests share is itself tested."""

from __future__ import annotations

import anyio.lowlevel
import pytest

from tests.kit.every import every


def test_every_case_that_fails_is_listed_and_none_hides_another() -> None:
    ran: list[str] = []
    with pytest.raises(AssertionError) as caught, every() as case:
        for name in ("good", "wrong", "broken", "unraised", "skipped", "last"):
            with case("the", name):
                ran.append(name)
                assert name != "wrong"
                if name == "broken":
                    raise LookupError(name)
                if name == "unraised":
                    with pytest.raises(ValueError, match="never"):
                        pass
                if name == "skipped":
                    pytest.skip("not here")
    assert ran == ["good", "wrong", "broken", "unraised", "skipped", "last"]
    report = str(caught.value)
    assert report.startswith("4 of 6 cases failed\n- the wrong (line ")
    assert "AssertionError: assert 'wrong' != 'wrong'" in report
    assert "- the broken (line " in report
    assert "LookupError: broken" in report
    assert "- the unraised (line " in report
    assert "- the skipped (line " in report
    assert "good" not in report
    assert isinstance(caught.value.__cause__, AssertionError)


def test_an_error_between_cases_keeps_the_failures_before_it() -> None:
    with pytest.raises(LookupError) as caught, every() as case:
        with case("first"):
            raise ValueError
        raise LookupError
    assert "- first (line " in caught.value.__notes__[0]


def test_every_case_passing_is_silent() -> None:
    with every() as case, case("one"):
        pass


def test_no_case_at_all_is_a_failure() -> None:
    with pytest.raises(AssertionError, match="no case ran"), every():
        pass


async def test_every_runs_cases_that_await(anyio_backend: str) -> None:
    with pytest.raises(AssertionError, match="1 of 2 cases"), every() as case:
        for number in (1, 2):
            with case(number):
                await anyio.lowlevel.checkpoint()
                assert number == 2
