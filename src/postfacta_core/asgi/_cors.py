"""Decide what pages of other origins may read and send."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..validation import validation
from ._problem import Problem
from ._settings import is_name
from ._types import Message

# The Fetch standard lets a page send these to any origin without asking.
_SAFE: Final = ("Accept", "Accept-Language", "Content-Language", "Content-Type")
_EXPOSED: Final = ("Retry-After", "X-Request-ID", "RateLimit", "RateLimit-Policy")
_is_origin = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s*]+|null").fullmatch
EXAMPLE: Final = 'allow_origins=["https://console.example.org"]'
_LISTS: Final = (
    ("allow_methods", "methods", 'allow_methods=["GET", "PUT"]'),
    ("allow_headers", "names of headers", 'allow_headers=["Authorization"]'),
    ("expose_headers", "names of headers", 'expose_headers=["ETag"]'),
)
_Headers = list[tuple[bytes, bytes]]
_VARY: Final = b"vary"
PREFLIGHT: Final = b"access-control-request-method"
# The headers of a response by which these rules grant access.
GRANTS: Final = frozenset(
    {
        b"access-control-allow-origin",
        b"access-control-allow-credentials",
        b"access-control-expose-headers",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """The origins that may call, and what their pages may read.

    Attributes:
        allow_origins: Such as `https://console.example.org`, without a path; `*` for all.
        allow_methods: What a page may do.
        allow_headers: What it may send besides the four that are always allowed; `*` for all.
        allow_credentials: Whether cookies count. Not together with `*` for all origins.
        expose_headers: What it may read besides `Retry-After`, `X-Request-ID` and the RateLimit
            fields.
        max_age: Seconds for which a browser need not ask again.

    Raises:
        ValueError: If an origin, method or header is none, or all origins would have credentials.
    """

    allow_origins: Sequence[str] = ()
    allow_methods: Sequence[str] = ("GET", "HEAD", "POST")
    allow_headers: Sequence[str] = ()
    allow_credentials: bool = False
    expose_headers: Sequence[str] = ()
    max_age: int = 600

    def __post_init__(self) -> None:
        validation.texts("Cors.allow_origins", self.allow_origins, example=EXAMPLE)
        for field, rule, example in _LISTS:
            names = validation.texts(f"Cors.{field}", getattr(self, field), example=example)
            for name in names:
                if not is_name(name):
                    validation.refuse(f"Cors.{field}", name, rule, example=example)
        validation.flag("Cors.allow_credentials", self.allow_credentials)
        validation.whole("Cors.max_age", self.max_age, at_least=0)
        for origin in self.allow_origins:
            if origin != "*" and not _is_origin(origin):
                rule = "origins: scheme and host, without a path"
                validation.refuse("Cors.allow_origins", origin, rule, example=EXAMPLE)
            # Any page can make itself of the origin "null", such as by a sandboxed frame.
            if self.allow_credentials and origin in {"*", "null"}:
                rule = "a list of origins where credentials are allowed"
                validation.refuse("Cors.allow_origins", origin, rule, example=EXAMPLE)

    def allows(self, origin: str) -> bool:
        """Return whether pages of this origin may read answers."""
        return "*" in self.allow_origins or origin in self.allow_origins


class CorsRules:
    """The headers that follow from `Cors`, put together once."""

    def __init__(self, cors: Cors) -> None:
        self._cors = cors
        # A star allows no credentials: then each origin is named.
        self._is_open = "*" in cors.allow_origins and not cors.allow_credentials
        exposed = dict.fromkeys((*_EXPOSED, *cors.expose_headers))
        self._granted = [(b"access-control-expose-headers", ", ".join(exposed).encode())]
        if cors.allow_credentials:
            self._granted.append((b"access-control-allow-credentials", b"true"))
        allowed = (*_SAFE, *cors.allow_headers)
        self._allowed = {name.lower() for name in allowed}
        self._preflight = [
            (b"access-control-allow-methods", ", ".join(cors.allow_methods).encode()),
            (b"access-control-allow-headers", ", ".join(allowed).encode()),
            (b"access-control-max-age", str(cors.max_age).encode()),
            (_VARY, b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
        ]

    def decision(self, origin: bytes | None) -> _Headers:
        decided: _Headers = []
        if not self._is_open:
            decided.append((_VARY, b"Origin"))
        if origin is not None and self._cors.allows(origin.decode("latin-1")):
            allowed = b"*" if self._is_open else origin
            decided.append((b"access-control-allow-origin", allowed))
            decided += self._granted
        return decided

    async def answer(
        self,
        fields: Mapping[bytes, bytes],
        refuse: Callable[[Problem], Awaitable[None]],
        emit: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer a preflight, with a problem if it asks for more than is allowed."""
        wrong = self.refused(fields)
        if wrong:
            detail = f"Not allowed to pages of other origins: {', '.join(wrong)}"
            await refuse(Problem(status=400, code="cors", title="Bad Request", detail=detail))
            return
        headers = [*self._preflight, (b"content-length", b"0")]
        names = _requested_headers(fields)
        if "*" in self._allowed and names:
            # A star means itself where credentials count: so what was asked for is named.
            allowed = ", ".join(sorted(names)).encode("latin-1")
            headers[1] = (b"access-control-allow-headers", allowed)
        await emit({"type": "http.response.start", "status": 200, "headers": headers})
        await emit({"type": "http.response.body", "body": b""})

    def refused(self, fields: Mapping[bytes, bytes]) -> list[str]:
        """Return for what a preflight asks that is not allowed."""
        wrong: list[str] = []
        if not self._cors.allows(fields[b"origin"].decode("latin-1")):
            wrong.append("origin")
        if fields[PREFLIGHT].decode("latin-1") not in self._cors.allow_methods:
            wrong.append("method")
        names = _requested_headers(fields)
        if "*" not in self._allowed and not names <= self._allowed:
            wrong.append("headers")
        return wrong


def _requested_headers(fields: Mapping[bytes, bytes]) -> set[str]:
    """Return the names of the headers that a page wants to send."""
    names = fields.get(b"access-control-request-headers", b"").decode("latin-1")
    return {name.strip().lower() for name in names.split(",")} - {""}
