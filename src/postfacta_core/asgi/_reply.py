"""One `send` shared by neighbouring layers, so that a message takes one call and not one for each of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ._types import Message, Send

__all__ = ["Headers", "Reply", "reply_of", "set_header"]

Headers = list[tuple[bytes, bytes]]

T = TypeVar("T")


class Reply:
    """The `send` of an HTTP request, which layers share instead of each wrapping that of the one before.

    A layer gets it by `reply_of`, says what it wants, and hands it on. Where something foreign stands between two
    layers and wraps it, the inner one gets another: so each sees what it would see with a wrapper of its own.

    Args:
        send: The `send` of the server or of the layer outside.

    Attributes:
        forward: The next `send`. A layer may put itself in between.
        has_begun: A response was started, by any layer.
    """

    __slots__ = ("_edits", "forward", "has_begun")

    def __init__(self, send: Send) -> None:
        self.forward: Send = send
        self.has_begun: bool = False
        self._edits: Any = None

    def edit(self, edit: Callable[[Headers, set[bytes], T], None], what: T) -> None:
        """Register a change of the headers for the response start; the last one, the innermost, runs first.

        Args:
            edit: Called with the headers, with their names in lower case, and with `what`. It changes the first
                in place, and adds to the second what it added.
            what: Anything.
        """
        # A chain of tuples: the cheapest of all lists for two or three of them, and in the right order.
        self._edits = (edit, what, self._edits)

    def __call__(self, message: Message) -> Awaitable[None]:
        """Send a message."""
        if message["type"] == "http.response.start":
            self.has_begun = True
            if self._edits is None:
                return self.forward(message)
            # A new message with a new list: an application may send the same objects again and again.
            message = {**message, "headers": self._edit(list(message.get("headers", ())))}
        return self.forward(message)

    def _edit(self, headers: Headers) -> Headers:
        names = {name.lower() for name, _ in headers}
        edits = self._edits
        while edits is not None:
            edit, what, edits = edits
            edit(headers, names, what)
        return headers


def reply_of(send: Send) -> Reply:
    """Return the `Reply` that this `send` is, or make one of it."""
    return send if isinstance(send, Reply) else Reply(send)


def set_header(headers: Headers, names: set[bytes], pair: tuple[bytes, bytes]) -> None:
    """Set a header, and remove its duplicates."""
    name = pair[0]
    if name in names:
        headers[:] = [other for other in headers if other[0].lower() != name]
    headers.append(pair)
    names.add(name)
