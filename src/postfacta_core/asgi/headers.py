"""Add the service's headers to every response, whichever layer made it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..validation import validation
from ._reply import Headers, reply_of
from ._settings import settings
from ._types import ASGIApp, Receive, Scope, Send

__all__ = ["ResponseHeadersMiddleware", "check_headers"]

# RFC 9110, section 5: a name is a token, and a value holds no line end and no NUL.
_is_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_is_value = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch


def check_headers(field: str, given: object) -> list[tuple[str, str]]:
    """Check headers, or raise a ValueError that names the field."""
    headers = settings.headers(field, given)
    for pair in headers:
        if not (_is_name(pair[0]) and _is_value(pair[1])):
            validation.refuse(
                field,
                pair,
                "a name and a value that HTTP allows",
                example='("x-content-type-options", "nosniff")',
            )
    return headers


class ResponseHeadersMiddleware:
    """Add headers to each response that does not set them itself.

    Args:
        app: The application to wrap.
        headers: Names and values; sent in this order.

    Raises:
        ValueError: If one is no header that a response can have.
    """

    def __init__(self, app: ASGIApp, headers: Iterable[tuple[str, str]]) -> None:
        settings.application("ResponseHeadersMiddleware", app)
        self._app = app
        headers = check_headers("ResponseHeadersMiddleware.headers", headers)
        added = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in headers]
        self._added = (added, frozenset(name for name, _ in added))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http":
            send = reply_of(send)
            send.edit(_add_missing, self._added)
        await self._app(scope, receive, send)


def _add_missing(headers: Headers, names: set[bytes], added: tuple[Headers, frozenset[bytes]]) -> None:
    ours, our_names = added
    headers += ours if names.isdisjoint(our_names) else [pair for pair in ours if pair[0] not in names]
    names |= our_names
