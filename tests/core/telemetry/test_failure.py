"""An error is described with its cause, and never by more than a line can hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from postfacta_core.errors import PoolTimeoutError
from postfacta_core.telemetry import redaction
from postfacta_core.telemetry.redaction import failure_fields


def caught(function: Callable[[], object]) -> Exception:
    try:
        function()
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError


def text_of(error: Exception) -> str:
    return str(failure_fields(error)["exception.stacktrace"])


def broken() -> None:
    secret_of_a_frame = "canary"  # noqa: S105 - it must not be told
    if secret_of_a_frame:
        raise ValueError("the cause")


def wrapped() -> None:
    try:
        broken()
    except ValueError as error:
        raise RuntimeError("the consequence") from error


def dive(depth: int, at_the_ground: Callable[[], None]) -> None:
    # Lines that take turns are no repetition, which the traceback would shorten by itself.
    if depth % 2:
        dive(depth - 1, at_the_ground)
        return
    if depth:
        dive(depth - 1, at_the_ground)
    else:
        at_the_ground()


def test_an_error_has_type_message_and_stack_with_its_cause() -> None:
    fields = failure_fields(caught(wrapped))
    assert fields["exception.type"] == "builtins.RuntimeError"
    assert fields["exception.message"] == "the consequence"
    text = str(fields["exception.stacktrace"])
    assert text.index("ValueError: the cause") < text.index("RuntimeError: the consequence")
    assert "in broken" in text
    assert "retry_after" not in fields


def test_no_local_variable_is_shown() -> None:
    text = text_of(caught(broken))
    assert "= canary" not in text
    assert "secret_of_a_frame" not in text


def test_retry_after_is_included_if_the_error_has_it() -> None:
    assert failure_fields(PoolTimeoutError("main", 2.5))["retry_after"] == 2.5


def test_a_stack_that_is_too_long_keeps_its_inner_end_and_every_cause() -> None:
    def deep() -> None:
        try:
            dive(400, broken)
        except ValueError as error:
            raise RuntimeError("the consequence") from error

    error = caught(lambda: dive(400, deep))
    text = text_of(error)
    assert len(text.encode()) <= 16_384
    assert text.startswith("The outermost frames of each stack are left out.")
    for kept in ("in broken", "in deep", "ValueError: the cause", "RuntimeError: the consequence"):
        assert kept in text


def test_of_a_too_long_message_both_ends_are_kept() -> None:
    def loud() -> None:
        raise ValueError("begin" + "ä" * 50_000 + "end")

    fields = failure_fields(caught(loud))
    text = str(fields["exception.stacktrace"])
    assert len(text.encode()) <= 16_384
    assert "begin" in text
    assert "left out here" in text
    assert text.endswith("end\n")
    assert len(str(fields["exception.message"])) <= 2_051


def test_a_group_includes_each_error_inside_of_it() -> None:
    def several() -> None:
        raise ExceptionGroup("several", [caught(lambda: dive(300, broken)), KeyError("another")])

    text = text_of(caught(several))
    assert len(text.encode()) <= 16_384
    assert "ValueError: the cause" in text
    assert "KeyError: 'another'" in text


@pytest.mark.parametrize("most", [400, 2_000, 16_384])
def test_no_limit_is_passed(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_MOST", most)
    assert len(text_of(caught(lambda: dive(500, wrapped))).encode()) <= most


def test_an_error_without_readable_text_is_still_described() -> None:
    class SlyError(Exception):
        def __str__(self) -> str:
            raise OSError

    fields = failure_fields(SlyError())
    assert "SlyError" in str(fields["exception.type"])
    assert fields["exception.message"] == "<its text cannot be made>"
