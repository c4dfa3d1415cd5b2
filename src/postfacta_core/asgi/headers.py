"""Add the service's headers to every response, whichever layer made it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..validation import validation
from ._kernel import Kernel
from ._settings import settings
from ._types import ASGIApp

__all__ = ["ResponseHeadersMiddleware", "check_headers", "encode_headers"]

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


def encode_headers(field: str, given: object) -> list[tuple[bytes, bytes]]:
    """Check headers, and write them as ASGI does, with their names in lower case."""
    pairs = check_headers(field, given)
    return [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in pairs]


class ResponseHeadersMiddleware(Kernel):
    """Add headers to each response that does not set them itself.

    Args:
        app: The application to wrap.
        headers: Names and values; sent in this order.

    Raises:
        ValueError: If one is no header that a response can have.
    """

    def __init__(self, app: ASGIApp, headers: Iterable[tuple[str, str]]) -> None:
        settings.application("ResponseHeadersMiddleware", app)
        super().__init__(app, response_headers=encode_headers("ResponseHeadersMiddleware.headers", headers))
