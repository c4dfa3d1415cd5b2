"""Decide whether a request is too large to be taken in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["TransferLimits"]

# A field line costs two bytes for ": " and two for its line end, and a parser's bookkeeping on top of that:
# RFC 7541 (section 4.1) counts 32 bytes a field, so a flood of empty fields is not free.
_FIELD_OVERHEAD = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferLimits:
    """The largest header section and body, in bytes."""

    max_header_bytes: int = 32_768
    max_body_bytes: int = 1_048_576

    def __post_init__(self) -> None:
        if self.max_header_bytes < 1 or self.max_body_bytes < 0:
            msg = f"needs at least 1 byte of headers and no negative body: {self}"
            raise ValueError(msg)

    def headers_fit(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Tell whether the header section is small enough."""
        left = self.max_header_bytes
        for name, value in headers:
            left -= len(name) + len(value) + _FIELD_OVERHEAD
        return left >= 0

    def declared_body_fits(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Tell whether the `Content-Length` allows the body; without one, only counting can tell.

        One that is no number is the server's business: it ends the message there, or refuses it.
        """
        for name, value in headers:
            if name == b"content-length" and value.isdigit():
                # A length of over 20 digits is too large before it is even a number.
                return len(value) <= 20 and int(value) <= self.max_body_bytes  # noqa: PLR2004 - 2**64 has 20
        return True

    def body_fits(self, received: int) -> bool:
        """Tell whether so many bytes of body may be taken in."""
        return received <= self.max_body_bytes
