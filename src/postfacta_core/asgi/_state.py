"""What may become of a request and its response: two tables.

1. All that decides who may still send, and how a response ended, stands here. No other flag is kept
   for it.
2. `Response` is what the client was sent. `Incoming` is what may still come from it.
3. Each pair of a state and an event has a result, since an application may send anything at any
   time. The pairs that change the state are written down; all others change nothing, and what is
   sent then is the server's to judge.

docs/explanation/exchange.md is made from the tables and from the comments at the states.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, TypeVar


class Response(IntEnum):
    """What the client was sent."""

    NONE = 0  # Nothing yet.
    BEGUN = 1  # The application's head is on its way, or sent.
    STREAMING = 2  # The first of several pieces is on its way, or sent.
    ENDING = 3  # The last piece is on its way to the server.
    WHOLE = 4  # All of it.
    TAKEN = 5  # Nothing yet; the answer is ours, and the application's messages go nowhere.
    ANSWERING = 6  # The head of our answer, or our last words in a stream, are on their way.
    ANSWERED = 7  # Our answer, whole.
    CUT = 8  # A part, and no more follows: the client sees that it is unfinished.
    STALLED = 9  # A part, which the client did not read in time; to send more raises.
    LEFT = 10  # A part, and the client is gone.
    PARTED = 11  # The last piece was on its way as the client left, which some servers report then.
    ABANDONED = 12  # Nothing, and the client is gone.
    UNANSWERED = 13  # Nothing, and the client left before our answer.
    UNREAD = 14  # A part of our answer, and the client is gone.


class Incoming(IntEnum):
    """What may still come from the client."""

    SENDING = 0  # More of its body.
    SENT = 1  # Nothing but its leaving.
    REFUSED = 2  # Whatever comes, the application sees a disconnect.
    GONE = 3  # Nothing: it left before its response was complete.


class Event(IntEnum):
    """What happens to a response, and to a request."""

    HEAD = 0  # A head is handed on.
    PIECE = 1  # A piece that is not the last is handed on.
    LAST = 2  # The last piece is handed on.
    ACCEPT = 3  # The server accepts the last piece.
    TAKE = 4  # We answer in the application's place: a deadline, a drain, a refusal.
    FAREWELL = 5  # A drain ends a stream that its client resumes.
    STALL = 6  # The client did not read a piece in the write timeout.
    LEAVE = 7  # The client leaves.
    READ = 8  # The end of its body comes.
    REFUSE = 9  # Its body is too large or too slow, or it does not read its response.


# An attribute of an enum costs each request more than a global.
(
    NONE,
    BEGUN,
    STREAMING,
    ENDING,
    WHOLE,
    TAKEN,
    ANSWERING,
    ANSWERED,
    CUT,
    STALLED,
    LEFT,
    PARTED,
    ABANDONED,
    UNANSWERED,
    UNREAD,
) = Response
(
    SENDING,
    SENT,
    REFUSED,
    GONE,
) = Incoming

S = TypeVar("S", Response, Incoming)


def _row(states: type[S], changes: Mapping[S, S]) -> Mapping[S, S]:
    """Complete a row: in all other states the event changes nothing."""
    return {state: changes.get(state, state) for state in states}


RESPONSE: Final[Mapping[Event, Mapping[Response, Response]]] = {
    # A body without a head, or a second head, is the server's to refuse.
    Event.HEAD: _row(Response, {NONE: BEGUN, TAKEN: ANSWERING}),
    Event.PIECE: _row(Response, {BEGUN: STREAMING}),
    Event.LAST: _row(Response, {BEGUN: ENDING, STREAMING: ENDING}),
    Event.ACCEPT: _row(
        Response, {ENDING: WHOLE, PARTED: WHOLE, ANSWERING: ANSWERED, UNREAD: ANSWERED}
    ),
    # What has ended, and what is not read, is not answered.
    Event.TAKE: _row(Response, {NONE: TAKEN, BEGUN: CUT, STREAMING: CUT}),
    Event.FAREWELL: _row(Response, {BEGUN: ANSWERING, STREAMING: ANSWERING}),
    Event.STALL: _row(Response, {BEGUN: STALLED, STREAMING: STALLED, ENDING: STALLED}),
    Event.LEAVE: _row(
        Response,
        {
            NONE: ABANDONED,
            BEGUN: LEFT,
            STREAMING: LEFT,
            ENDING: PARTED,
            TAKEN: UNANSWERED,
            ANSWERING: UNREAD,
        },
    ),
}
"""The state of a response after each event, by its state before."""

INCOMING: Final[Mapping[Event, Mapping[Incoming, Incoming]]] = {
    Event.READ: _row(Incoming, {SENDING: SENT}),
    Event.LEAVE: _row(Incoming, {SENDING: GONE, SENT: GONE}),
    Event.REFUSE: _row(Incoming, {SENDING: REFUSED, SENT: REFUSED, GONE: REFUSED}),
}
"""The state of a request after each event, by its state before."""

SHUT: Final = frozenset({TAKEN, ANSWERING, ANSWERED, CUT, STALLED, UNANSWERED, UNREAD})
"""The application's messages go nowhere."""
OPEN: Final = frozenset({NONE, BEGUN, STREAMING})
"""It can still be answered, or cut."""
HANDED_ON: Final = frozenset({ENDING, PARTED, WHOLE})
"""The application has sent its last piece."""
COMPLETE: Final = frozenset({WHOLE, ANSWERED})
"""All of it was sent."""
UNSENT: Final = frozenset({NONE, TAKEN, ABANDONED, UNANSWERED})
"""Not even a head was sent."""
