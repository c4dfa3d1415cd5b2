"""Count the Python frames and bytecodes of some work, exactly.

A cost that no busy machine moves.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from threading import get_ident
from types import CodeType, FrameType
from typing import Any, NamedTuple

from tests.kit import fair

__all__ = ["Cost", "bytecodes_of", "fewest_bytecodes", "refusal", "usual_bytecodes"]

# The share of a limit below which a count is wrong, or the limit is. From Python 3.12 on a GET has
# 0.78 of the bytecodes that it has on 3.11, since pairs of them became one; a count that saw only
# some had 0.14.
_LEAST = 0.7


class Cost(NamedTuple):
    """What was counted."""

    frames: int  # Each once, however often it is resumed.
    bytecodes: int


def refusal(bytecodes: int, most: int) -> str:
    """Return why a count is refused, or an empty text.

    Too many, or so few that the count must be wrong.

    The limit is of Python 3.11. Newer ones compile to fewer.
    """
    if bytecodes > most:
        return f"{bytecodes} bytecodes, where {most} are allowed"
    is_true = bytecodes >= most * _LEAST
    return (
        ""
        if is_true
        else f"{bytecodes} bytecodes are too few to be true: lower the limit of {most}, or mend the count"
    )


async def bytecodes_of(serve: Callable[[], Awaitable[object]]) -> Cost:
    """Run it, and return its cost. Other threads and the tests' clock do not count."""
    counts = [0, 0]
    # A collection would call what Hypothesis has for it, which counts.
    gc.disable()
    try:
        with _traced(counts) if sys.version_info < (3, 12) else _monitored(counts):
            await serve()
    finally:
        gc.enable()
    return Cost(*counts)


async def fewest_bytecodes(serve: Callable[[], Awaitable[object]], runs: int = 5) -> int:
    """Return the fewest of some runs, once it is warm.

    What arrives in two pieces takes a turn of the loop more, and timers that were cancelled lie in
    the loop's heap for a while.
    """
    for _ in range(3):
        await serve()
    return min([(await bytecodes_of(serve)).bytecodes for _ in range(runs)])


async def usual_bytecodes(serve: Callable[[], Awaitable[object]], runs: int = 30) -> int:
    """Return the count that most of some runs had, once it is warm.

    An answer that is there already saves a wait, which a few runs meet on a busy machine: the
    fewest of one client would be compared with the usual ones of the other.
    """
    for _ in range(3):
        await serve()
    counts = Counter([(await bytecodes_of(serve)).bytecodes for _ in range(runs)])
    return counts.most_common(1)[0][0]


# What counts is not counted, nor what the tests' clock adds: coverage has these files traced
# already, and a count would depend on it.
_OWN = (__file__, contextmanager.__code__.co_filename, fair.__file__)


@contextmanager
def _traced(counts: list[int]) -> Generator[None]:
    kept: dict[int, FrameType] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename in _OWN:
            return None
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            if id(frame) not in kept:
                kept[id(frame)] = frame
                counts[0] += 1
        elif event == "opcode":
            counts[1] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


# Since 3.12 a frame that asks for its opcodes as it is called gets only some.
@contextmanager
def _monitored(counts: list[int]) -> Generator[None]:
    monitoring: Any = vars(sys)["monitoring"]  # From 3.12 on.
    events, thread = monitoring.events, get_ident()
    tool = next(number for number in range(6) if monitoring.get_tool(number) is None)

    def count(which: int) -> Callable[[CodeType, int], None]:
        def note(code: CodeType, offset: int) -> None:
            if get_ident() == thread and code.co_filename not in _OWN:
                counts[which] += 1

        return note

    monitoring.use_tool_id(tool, "bytecodes")
    try:
        monitoring.register_callback(tool, events.PY_START, count(0))
        monitoring.register_callback(tool, events.INSTRUCTION, count(1))
        monitoring.set_events(tool, events.PY_START | events.INSTRUCTION)
        yield
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)
