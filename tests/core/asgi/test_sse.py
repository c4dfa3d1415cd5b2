"""A stream of events is known to be between two of them, however its lines end and its pieces are cut."""

from __future__ import annotations

import anyio
from hypothesis import given, strategies as st

from postfacta_core.asgi._sse import EventStream, farewell
from postfacta_core.asgi._types import Message
from tests.kit.every import every

LINE_ENDS = ["\n", "\r\n", "\r"]


async def _send(message: Message) -> None:
    """Take it."""


def after(*pieces: bytes) -> bool:
    async def send() -> bool:
        stream = EventStream(_send)
        for piece in pieces:
            await stream.send({"type": "http.response.body", "body": piece})
        return stream.end()

    return anyio.run(send)


def test_an_event_ends_with_an_empty_line() -> None:
    cases: dict[str, tuple[list[bytes], bool]] = {
        "before the first event": ([], True),
        "LF": ([b"data: 1\n\n"], True),
        "CRLF": ([b"data: 1\r\n\r\n"], True),
        "CR": ([b"data: 1\r\r"], True),
        "LF, CRLF": ([b"data: 1\n\r\n"], True),
        "CR, CRLF": ([b"data: 1\r\r\n"], True),
        "LF, CR": ([b"data: 1\n\r"], True),
        "a comment": ([b": ping\n\n"], True),
        "in pieces": ([b"data: 1", b"\n", b"\n"], True),
        "pieces of one CRLF": ([b"data: 1\r\n\r", b"\n"], True),
        "an empty piece after it": ([b"data: 1\n\n", b""], True),
        "within a line": ([b"data: 1"], False),
        "after a line": ([b"data: 1\n"], False),
        "after a line with CRLF": ([b"data: 1\r\n"], False),
        "within the next event": ([b"data: 1\n\n", b"id: 2\n"], False),
    }
    with every() as case:
        for name, (pieces, is_between) in cases.items():
            with case(name):
                assert after(*pieces) is is_between


@given(
    lines=st.lists(
        st.tuples(st.sampled_from(["", "data: 1", "id: 2"]), st.sampled_from(LINE_ENDS)), max_size=8
    ),
    size=st.integers(min_value=1, max_value=9),
)
def test_it_does_not_matter_how_the_lines_end_or_are_cut(
    lines: list[tuple[str, str]], size: int
) -> None:
    text = "".join(line + end for line, end in lines)
    data = text.encode()
    # As the standard reads it: lines end with any of the three.
    read = text.replace("\r\n", "\n").replace("\r", "\n")
    is_between = not read or read == "\n" or read.endswith("\n\n")
    assert after(*(data[at : at + size] for at in range(0, len(data), size))) is is_between


def test_the_times_to_come_back_are_spread() -> None:
    seen: set[int] = set()
    for _ in range(20):
        field, _, milliseconds = farewell().removesuffix(b"\n\n").partition(b": ")
        assert field == b"retry"
        seen.add(int(milliseconds))
    assert all(1000 <= milliseconds < 5000 for milliseconds in seen)
    assert len(seen) > 10
