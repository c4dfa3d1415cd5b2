"""Authenticate each request before its route runs, and apply revocations of other processes."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from starlette.requests import Request

from postfacta_core.clock import MONOTONIC, WALL, Clock
from postfacta_core.context import current_request
from postfacta_core.errors import DeadlineExceededError, RejectedError
from postfacta_postgres import Database

from ..db import Reader
from ..errors import AppError, ForbiddenError, UnauthenticatedError
from ..principal import ANONYMOUS, NOBODY, Principal
from ..settings import AuthMode, Settings, is_loopback
from ..web.forms import csrf_token, is_same_origin
from ..web.render import MAX_STALE
from . import accounts
from .accounts import SECRET, cookie_name, digest
from .model import Credential, Kind

PRESENTED: Final = "postfacta.token"  # the scope key of the id of the token that a request presents

_SAFE: Final = {"GET", "HEAD", "OPTIONS"}
# Probes and scrapers have other credentials; a sign-in request may carry an old token.
_UNASKED: Final = {
    "/",
    "/home",
    "/healthz",
    "/healthz/live",
    "/healthz/ready",
    "/healthz/startup",
    "/metrics",
    "/service-info",
    "/login",
    "/register",
    "/signin",
}
_IN_HEADER = frozenset({Kind.BEARER, Kind.API})
_IN_COOKIE = frozenset({Kind.SESSION})
_TRUSTED_FOR = 10.0  # Seconds until a revocation in another process takes effect here.
_MOST_TRUSTED = 1024  # tokens; then the oldest is dropped
_TOUCH_AFTER = 60.0  # seconds; lists show `last_used_at` to the minute
# Seconds. An entry has the time at which its transaction began: none lives for half as long.
_SETTLED: Final = 60.0


class Guard:
    """Authenticates requests by bearer token, API token or session cookie.

    `foreign` verifies tokens of others; `attempted` gets the outcome of each check not made from
    memory.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        foreign: Callable[[Request, str], Awaitable[Credential | None]] | None = None,
        attempted: Callable[[str], object] = lambda _: None,
        clock: Clock = WALL,
        monotonic: Clock = MONOTONIC,
    ) -> None:
        self.settings = settings
        self._reader = Reader(database, NOBODY)
        self._foreign = foreign
        self._attempted = attempted
        self._is_open = settings.auth_mode is AuthMode.NONE
        self._cookie = cookie_name(is_local=settings.is_local)
        self._origins = settings.cors_origins if settings.cors_credentials or self._is_open else ()
        self._clock = clock
        self._monotonic = monotonic
        self._trusted: dict[bytes, tuple[Credential, float]] = {}
        self._generation = 0

    def forget(self, revoked: str | UUID | None = None) -> None:
        """Stop trusting a caller's tokens, or the one of this id, or all.

        So a revocation takes effect at once.
        """
        for key, (token, _) in list(self._trusted.items()):
            if revoked in {None, token.id, token.principal.actor}:
                del self._trusted[key]
        self._generation += 1

    async def authenticate(self, request: Request) -> Principal:
        """Return the sender of a request.

        Raise if `Authorization` is not valid, while a stale cookie is ignored.
        """
        principal = self._anyone(request) if self._is_open else await self._someone(request)
        context = current_request()
        if context is not None:
            context.principal = principal.actor
        return principal

    def _anyone(self, request: Request) -> Principal:
        hosts = request.headers.getlist("host")
        try:
            name = urlsplit(f"//{hosts[0]}").hostname if len(hosts) == 1 else None
        except ValueError:
            name = None
        if not is_loopback(name or ""):
            raise ForbiddenError("Without sign-in, only requests to localhost are accepted")
        names_page = "origin" in request.headers or "sec-fetch-site" in request.headers
        if names_page and request.method not in _SAFE:
            self._refuse_foreign(request)
        return ANONYMOUS

    async def _someone(self, request: Request) -> Principal:
        if request.scope["path"] in _UNASKED:
            return NOBODY
        header = request.headers.getlist("authorization")
        secret = presented(header, None if header else request.cookies.get(self._cookie))
        kinds = _IN_HEADER if header else _IN_COOKIE
        token = await self._look_up(request, secret, kinds) if secret else None
        request.scope[PRESENTED] = token.id if token else None
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
            raise ForbiddenError(
                "This request came from another site; open the page here and repeat it"
            )

    async def _look_up(
        self, request: Request, secret: str, kinds: frozenset[Kind]
    ) -> Credential | None:
        sha256 = digest(secret)
        token = self._recall(sha256, _TRUSTED_FOR)
        if token is None:
            try:
                token = await self._fetch(request, secret, kinds, sha256=sha256)
            except (RejectedError, DeadlineExceededError):
                # A recent verification is enough for stale reads, never for writes.
                token = self._recall(sha256, MAX_STALE) if request.method in _SAFE else None
                if token is None:
                    raise
        now = datetime.fromtimestamp(self._clock(), UTC)
        if token is None or token.kind not in kinds or token.outcome(sha256, now) != "ok":
            return None
        return token

    def _recall(self, sha256: bytes, seconds: float) -> Credential | None:
        token, since = self._trusted.get(sha256, (None, 0.0))
        return token if self._monotonic() < since + seconds else None

    async def _fetch(
        self, request: Request, secret: str, kinds: frozenset[Kind], *, sha256: bytes
    ) -> Credential | None:
        """Look a secret up, trust it for a while if it is valid, and record its use."""
        generation = self._generation
        began = self._monotonic()
        token = None
        match = SECRET.fullmatch(secret)
        if match is not None:
            token = await accounts.credential(self._reader, sha256, match["prefix"])
        elif self._foreign and Kind.BEARER in kinds:
            token = await self._foreign(request, secret)
        now = datetime.fromtimestamp(self._clock(), UTC)
        outcome = "bad_credentials" if token is None else token.outcome(sha256, now)
        self._attempted(outcome)
        if token is None or outcome != "ok":
            self._trusted.pop(sha256, None)
            return None
        if token.last_used_at is None or (now - token.last_used_at).total_seconds() >= _TOUCH_AFTER:
            with suppress(RejectedError):  # Reads continue while the database is read-only.
                await accounts.touch(self._reader, token.id, now)
        # It may have been revoked here during the lookup.
        if generation == self._generation:
            self._trusted.pop(sha256, None)
            if len(self._trusted) >= _MOST_TRUSTED:
                del self._trusted[next(iter(self._trusted))]
            self._trusted[sha256] = (token, began)
        return token


_SCHEME: Final = re.compile(r"bearer +(\S+) *", re.IGNORECASE)


def presented(authorization: Sequence[str], cookie: str | None) -> str | None:
    """Return the secret that a request presents, if any; raise if it is no Bearer token."""
    if not authorization:
        return cookie or None
    match = _SCHEME.fullmatch(authorization[0])
    if match is None or len(authorization) > 1:
        raise _invalid("Authorization must be a single Bearer token")
    return match[1]


def _invalid(detail: str) -> AppError:
    return UnauthenticatedError(
        detail, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'}
    )


def revocations(
    losses: Callable[[float], Awaitable[Mapping[int, bool]]],
    *,
    distrust: Callable[[], object],
    hide: Callable[[], object],
    clock: Clock = MONOTONIC,
) -> Callable[[], Awaitable[None]]:
    """Return a job that processes new `losses` in the audit log.

    Its first call only records those that are there. Later ones call `distrust` if a right was
    lost, and `hide` if fewer people may see an incident.
    """
    recorded: Mapping[int, bool] | None = None
    read_at = clock()

    async def look() -> None:
        nonlocal recorded, read_at
        now = clock()
        entries = await losses(now - read_at + _SETTLED)
        if recorded is not None:
            effects = {hides for seq, hides in entries.items() if seq not in recorded}
            if True in effects:
                hide()
            if False in effects:
                distrust()
        recorded = entries
        read_at = now

    return look
