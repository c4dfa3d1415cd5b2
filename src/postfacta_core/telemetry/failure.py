"""Describe an error for debugging: its type, its message, its stack trace."""

from __future__ import annotations

from traceback import TracebackException
from typing import Final

_MOST: Final = 16_384  # Bytes of a stack trace: as JSON, a line is then still below what collectors take.
_MOST_MESSAGE: Final = 2_048  # Characters.
_CUT: Final = "\n  ... left out here ...\n"
_LEFT_OUT: Final = "The outermost frames of each stack are left out.\n"


def failure_fields(error: BaseException, *, most: int = _MOST) -> dict[str, object]:
    """Return `exception.type`, `.message` and `.stacktrace`, and `retry_after` if the error carries one.

    The stack trace includes the causes, and holds no local variables. One that is too long loses the outermost frames
    of each stack first, so that every cause is still there.

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
    data = b""
    for frames in (None, -32, -8, -2):
        text = "".join(TracebackException.from_exception(error, limit=frames).format())
        text = f"{_LEFT_OUT}{text}" if frames else text
        data = text.encode(errors="replace")
        if len(data) <= most:
            return text
    # The beginning is the first cause, and the end the error itself.
    half = (most - len(_CUT)) // 2
    return data[:half].decode(errors="ignore") + _CUT + data[-half:].decode(errors="ignore")
