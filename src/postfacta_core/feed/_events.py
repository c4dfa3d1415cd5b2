"""What a feed sends, and how that is written as server-sent events (HTML standard, section 9.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from ..validation import validation

# The format ends a line with CRLF, LF or CR, and ignores an id with a NUL.
_LINES: Final = re.compile(r"\r\n|\r|\n")
_FIELD: Final = re.compile(r"[^\r\n\0]*")
LONGEST_ID: Final = 200
"""Characters of an id. What a client sends beyond that is none of ours."""


@dataclass(frozen=True, slots=True)
class FeedEvent:
    r"""What a feed sends.

    Attributes:
        data: Its content, such as JSON; any text.
        id: Names it, in all processes alike; at most 200 characters, without \r, \n and NUL.
        key: What it is the newest state of: of several events of one key, watchers that have seen
            none of them get the last. Empty if it replaces none. Watchers do not get it.
        name: Its type, for `addEventListener`; empty for a browser's `message`.
    """

    data: str
    id: str
    key: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        validation.text("FeedEvent.data", self.data, example='data="{}"')
        validation.text("FeedEvent.key", self.key, example='key="order-17"')
        validation.text("FeedEvent.id", self.id, empty=False, example='id="17"')
        for field, value in (("id", self.id), ("name", self.name)):
            text = validation.text(f"FeedEvent.{field}", value)
            if len(text) > LONGEST_ID or not _FIELD.fullmatch(text):
                rule = f"at most {LONGEST_ID} characters without \\r, \\n and NUL"
                validation.refuse(f"FeedEvent.{field}", value, rule, example=f'{field}="17"')


# Without data a browser dispatches no event.
_NO_DATA: Final = "{}"

GAP: Final = FeedEvent(_NO_DATA, "gap", name="gap")
"""Sent in place of what may have been missed: its reader reads the present state anew."""

STALE: Final = FeedEvent(_NO_DATA, "stale", name="stale")
"""Sent once when the source of a feed that follows one cannot be read."""

FRESH: Final = FeedEvent(_NO_DATA, "fresh", name="fresh")
"""Sent once when it can be read again, to who was sent `STALE`."""


class Entry(NamedTuple):
    """An event with its place in a feed, and what is sent of it: the same bytes to all."""

    position: int
    event: FeedEvent
    wire: bytes


def written(event: FeedEvent, event_id: str) -> bytes:
    """Write an event with an id; an empty one leaves that of its reader as it is."""
    lines = [f"event: {event.name}"] if event.name else []
    if event_id:
        lines.append(f"id: {event_id}")
    lines += [f"data: {line}" for line in _LINES.split(event.data)]
    return "\n".join([*lines, "", ""]).encode()


def place_written(event_id: str) -> bytes:
    """Write an id alone.

    A browser keeps it for its return and dispatches no event, so one that is cut off before its
    first event misses none.
    """
    return f"id: {event_id}\n\n".encode()
