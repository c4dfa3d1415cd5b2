"""Authenticate each request before its route runs."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

from postfacta_core.clock import MONOTONIC, WALL, Clock
from postfacta_core.context import current_request
from postfacta_core.errors import DeadlineExceededError, RejectedError

from ..errors import ForbiddenError, UnauthenticatedError
from ..principal import ANONYMOUS, NOBODY, Principal
from ..settings import AuthMode, Settings
from ..web.forms import csrf_token, is_same_origin
from ..web.stale import MAX_AGE
from .local import SECRET, cookie_name, digest, presented
from .model import Credential, Kind
from .postgres import PostgresIdentity

_SAFE: Final = {"GET", "HEAD", "OPTIONS"}
# Probes and scrapers have other credentials; a sign-in request may carry an old token.
_UNASKED: Final = {
    "/", "/home", "/healthz", "/healthz/live", "/healthz/ready", "/healthz/startup", "/metrics", "/service-info",
    "/login", "/register", "/signin",
}  # fmt: skip
_IN_HEADER, _IN_COOKIE = frozenset({Kind.BEARER, Kind.API}), frozenset({Kind.SESSION})
_TRUSTED_FOR = 10.0  # Seconds until a revocation in another process takes effect here.
_MOST_TRUSTED = 1024
_TOUCH_AFTER = 60.0


Foreign = Callable[[Request, str], Awaitable[Credential | None]]
"""Returns the principal of a token that others issue; None if it is not valid."""


class Guard:
    """Authenticates requests by bearer token, API token or session cookie.

    `foreign` verifies bearer tokens that others issue; `attempted` is called with the outcome of each check
    of a token that is not answered from memory.
    """

    def __init__(
        self,
        store: PostgresIdentity,
        settings: Settings,
        *,
        foreign: Foreign | None = None,
        attempted: Callable[[str], object] = lambda _: None,
        clock: Clock = WALL,
        monotonic: Clock = MONOTONIC,
    ) -> None:
        self._store = store
        self._foreign = foreign
        self._attempted = attempted
        self._is_open = settings.auth_mode is AuthMode.NONE
        self._cookie = cookie_name(is_local=settings.is_local)
        self._origins = settings.cors_origins if settings.cors_credentials or self._is_open else ()
        self._clock = clock
        self._monotonic = monotonic
        self._trusted: dict[bytes, tuple[Credential, float]] = {}
        self._era = 0

    def forget(self, is_lost: Callable[[Credential], bool]) -> None:
        """Stop trusting these tokens; called after a revocation, so that it takes effect at once."""
        self._trusted = {key: seen for key, seen in self._trusted.items() if not is_lost(seen[0])}
        self._era += 1

    async def authenticate(self, request: Request) -> Principal:
        """Return the sender of a request.

        Raises:
            UnauthenticatedError: If `Authorization` is not valid. A stale cookie is ignored.
            ForbiddenError: If a page of another site made a browser send it.
        """
        principal = self._anyone(request) if self._is_open else await self._someone(request)
        if (context := current_request()) is not None:
            context.principal = principal.actor
        return principal

    def _anyone(self, request: Request) -> Principal:
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not _is_loopback(hosts[0]):
            raise ForbiddenError("Without sign-in, only requests to localhost are accepted")
        names_page = "origin" in request.headers or "sec-fetch-site" in request.headers
        if names_page and request.method not in _SAFE:
            self._refuse_foreign(request)
        return ANONYMOUS

    async def _someone(self, request: Request) -> Principal:
        if request.scope["path"] in _UNASKED:
            return NOBODY
        header = request.headers.getlist("authorization")
        try:
            secret = presented(header, None if header else request.cookies.get(self._cookie))
        except ValueError as error:
            raise _invalid(str(error)) from None
        token = (
            None
            if secret is None
            else await self._look_up(request, secret, _IN_HEADER if header else _IN_COOKIE)
        )
        if header:
            if token is None:
                raise _invalid("This token is unknown, expired or revoked")
            return token.principal
        if token is None or secret is None:
            return NOBODY
        if request.method not in _SAFE:
            self._refuse_foreign(request)
        return replace(token.principal, session_csrf=csrf_token(secret))

    def _refuse_foreign(self, request: Request) -> None:
        if not is_same_origin(request.headers, self._origins):
            raise ForbiddenError("This request came from another site; open the page here and repeat it")

    async def _look_up(self, request: Request, secret: str, kinds: frozenset[Kind]) -> Credential | None:
        if SECRET.fullmatch(secret) is None and (self._foreign is None or Kind.BEARER not in kinds):
            self._attempted("bad_credentials")
            return None
        sha256 = digest(secret)
        token = self._recall(sha256, _TRUSTED_FOR)
        if token is None:
            try:
                token = await self._fetch(request, secret, sha256)
            except (RejectedError, DeadlineExceededError):
                # A recent verification is enough for stale reads, never for writes.
                token = self._recall(sha256, MAX_AGE) if request.method in _SAFE else None
                if token is None:
                    raise
        now = datetime.fromtimestamp(self._clock(), UTC)
        if token is None or token.kind not in kinds or not token.is_good(sha256, now):
            return None
        return token

    def _recall(self, sha256: bytes, seconds: float) -> Credential | None:
        token, since = self._trusted.get(sha256, (None, 0.0))
        return token if self._monotonic() < since + seconds else None

    async def _fetch(self, request: Request, secret: str, sha256: bytes) -> Credential | None:
        era, began = self._era, self._monotonic()
        token = await self._find(request, secret, sha256)
        now = datetime.fromtimestamp(self._clock(), UTC)
        outcome = _outcome(token, sha256, now)
        self._attempted(outcome)
        if token is None or outcome != "ok":
            self._trusted.pop(sha256, None)
            return None
        await self._touch(token, now)
        # It may have been revoked here during the lookup.
        if era == self._era:
            self._trusted.pop(sha256, None)
            if len(self._trusted) >= _MOST_TRUSTED:
                del self._trusted[next(iter(self._trusted))]
            self._trusted[sha256] = (token, began)
        return token

    async def _find(self, request: Request, secret: str, sha256: bytes) -> Credential | None:
        if (found := SECRET.fullmatch(secret)) is not None:
            return await self._store.credential(sha256, found["prefix"])
        return await self._foreign(request, secret) if self._foreign else None

    async def _touch(self, token: Credential, now: datetime) -> None:
        used = token.last_used_at
        if used is not None and (now - used).total_seconds() < _TOUCH_AFTER:
            return
        try:
            await self._store.touch(token.id, now)
        except RejectedError:
            return  # Reads continue while the database is read-only.


def _outcome(token: Credential | None, sha256: bytes, now: datetime) -> str:
    if token is None or not hmac.compare_digest(token.secret_sha256, sha256):
        return "bad_credentials"
    if token.is_good(sha256, now):
        return "ok"
    return "revoked" if token.revoked_at or token.disabled_at else "expired"


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _invalid(detail: str) -> UnauthenticatedError:
    return UnauthenticatedError(detail, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
