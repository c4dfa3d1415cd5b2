"""Describe an error for debugging: its type, its message, its stack trace."""

from __future__ import annotations

from collections.abc import Iterator
from traceback import TracebackException
from typing import Final

_MOST: Final = 16_384  # Bytes of a stack trace: as JSON, a line is then still below what collectors take.
_MOST_MESSAGE: Final = 2_048  # Characters.
_FRAMES: Final = (32, 8, 2)
_CUT: Final = "\n  ... left out here ...\n"
_LEFT_OUT: Final = "Frames in the middle of each stack are left out.\n"


def failure_fields(error: BaseException, *, most: int = _MOST) -> dict[str, object]:
    """Return `exception.type`, `.message` and `.stacktrace`, and `retry_after` if the error carries one.

    The stack trace includes the causes, and holds no local variables. One that is too long loses the frames in
    the middle of each stack first, so that every cause is still there.

    Args:
        error: What was raised. Its `str` may raise.
        most: The bytes of the stack trace in UTF-8.
    """
    kind = type(error)
    fields: dict[str, object] = {
        "exception.type": f"{kind.__module__}.{kind.__qualname__}",
        "exception.message": _message(error),
        "exception.stacktrace": _stack_trace(error, most),
    }
    retry_after = getattr(error, "retry_after", None)
    if isinstance(retry_after, int | float):
        fields["retry_after"] = retry_after
    return fields


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - foreign code, and what it describes counts more
        return "<its text cannot be made>"
    return text if len(text) <= _MOST_MESSAGE else f"{text[:_MOST_MESSAGE]}..."


def _stack_trace(error: BaseException, most: int) -> str:
    told = TracebackException.from_exception(error)
    text = "".join(told.format())
    for frames in _FRAMES:
        if _size(text) <= most:
            return text
        for link in _chain(told):
            _shorten(link, frames)
        text = _LEFT_OUT + "".join(told.format())
    return text if _size(text) <= most else _cut(text, most)


def _size(text: str) -> int:
    return len(text.encode(errors="replace"))


def _chain(told: TracebackException) -> Iterator[TracebackException]:
    """Walk through an error, its causes, and the members of groups."""
    waiting: list[TracebackException | None] = [told]
    while waiting:
        link = waiting.pop()
        if link is not None:
            yield link
            waiting += [link.__cause__, link.__context__, *(link.exceptions or ())]


def _shorten(link: TracebackException, frames: int) -> None:
    # The outermost frames say who called, the innermost where it happened: those are the more.
    if len(link.stack) > frames:
        outer = frames // 4
        del link.stack[outer : len(link.stack) - (frames - outer)]


def _cut(text: str, most: int) -> str:
    """Keep the beginning, which is the first cause, and the end, which is the error itself."""
    data, half = text.encode(errors="replace"), (most - len(_CUT)) // 2
    return data[:half].decode(errors="ignore") + _CUT + data[-half:].decode(errors="ignore")
