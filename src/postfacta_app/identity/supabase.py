"""Sign-in through the Supabase project (GoTrue): verify its tokens, map them to accounts, check passwords.

A valid signature is not enough: the project's own API keys and anonymous users have one too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import httpx2
from jwt import PyJWT
from jwt.exceptions import PyJWTError
from pydantic import BaseModel, Field, JsonValue, ValidationError
from starlette.requests import Request

from postfacta_adapters.jwks import Jwks
from postfacta_core.clock import WALL, Clock
from postfacta_core.drain.resources import Resource
from postfacta_core.errors import DeadlineExceededError, RejectedError, ResilienceError
from postfacta_core.events import Observer
from postfacta_core.guards._circuit import CircuitConfig
from postfacta_core.guards.breaker import CircuitBreaker
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_core.guards.timeout import Timeout

from ..principal import NOBODY, Role
from ..rotation import Rotation
from ..settings import Settings
from . import model
from .local import Accounts, digest, mint, wrong_password
from .postgres import add_secret, external, external_name, meet
from .project import Client, Reply

_LONGEST: Final = 8_192  # Characters; the project's have about 1,000.
_LEEWAY: Final = 30.0  # Allowed clock difference in seconds.
_LATEST: Final = 253_402_300_000.0  # In the year 9999, the last that datetime supports.
# The claims are checked below, by our own clock.
_BY_SECRET: Final = PyJWT(
    {"enforce_minimum_key_length": True, "verify_exp": False, "verify_iat": False, "verify_nbf": False}
)

Seconds = Annotated[float, Field(ge=0, le=_LATEST, allow_inf_nan=False)]


class _Claims(BaseModel, strict=True, frozen=True):
    """The claims of a verified token. `user_metadata` is not read: users can edit their own."""

    iss: str
    aud: Literal["authenticated"]
    role: Literal["authenticated"]
    sub: Annotated[UUID, Field(strict=False)]
    exp: Seconds
    iat: Seconds
    nbf: Seconds = 0.0
    is_anonymous: Literal[False] = False
    email: model.Email | Literal[""] | None = None
    app_metadata: Mapping[str, JsonValue] = Field(default_factory=dict[str, JsonValue])

    @property
    def newcomer(self) -> model.Newcomer:
        """The person, for their first sign-in. A token cannot make anyone an administrator."""
        # Not a set: the value may be unhashable.
        is_writer = self.app_metadata.get("postfacta_role") in (Role.RESPONDER, Role.ADMIN)
        # Sign-in by telephone has no address.
        email = self.email or f"{self.sub}@no-address.invalid"
        name = email.partition("@")[0][:100]
        return model.Newcomer(
            email=email, display_name=name, role=Role.RESPONDER if is_writer else Role.VIEWER
        )


_OK: Final = 200
_SESSION: Final = timedelta(hours=12)  # A ban in the project takes effect here when this session ends.
_SOON: Final = 5.0  # Default Retry-After, in seconds.
# Answered alike, so that a failed sign-in reveals nothing else.
_WRONG: Final = {
    "email_not_confirmed",
    "invalid_credentials",
    "phone_not_confirmed",
    "user_banned",
    "user_not_found",
    "validation_failed",
}


class SupabaseAccounts(Accounts):
    """Signs people in with passwords that the project holds, and verifies the tokens that it signed with its `keys`."""

    def __init__(
        self,
        current: Callable[[], Settings],
        client: Client,
        keys: Jwks,
        *common: Any,
        clock: Clock = WALL,
        **others: Any,
    ) -> None:
        super().__init__(*common, **others)
        self.keys: Jwks = keys
        self._current = current
        self._issuer = current().issuer
        self._client = client
        self._clock = clock

    async def sign_in(
        self, request: Request, credentials: model.Credentials, kind: model.Kind, *, now: datetime
    ) -> model.Minted:
        """Have the project check a password; return its token, or a session; raises as the local way."""
        async with self._attempt(request, credentials.email) as accept:
            token = await self._token(credentials)
            accept()
        found = await self.credential(request, token)
        if found is None or found.expires_at <= now:
            raise self._unusable("token_refused")
        if found.outcome(digest(token), now) != "ok":
            self._attempted("revoked")
            raise wrong_password()
        if kind is not model.Kind.SESSION:
            return await self._begin(request, model.Minted(token, found))
        minted = mint(kind, found.principal, now, expires_at=now + _SESSION)
        return await self._begin(request, minted, partial(add_secret, token=minted.token))

    async def _token(self, credentials: model.Credentials) -> str:
        try:
            reply = await self._client.ask("POST", "token?grant_type=password", credentials.model_dump())
        except (ResilienceError, httpx2.HTTPError, ValueError) as error:
            wait = error.retry_after if isinstance(error, ResilienceError) else None
            raise RejectedError(self._client.name, wait or _SOON) from error
        if reply.status_code != _OK:
            code = _code(reply)
            raise wrong_password() if code in _WRONG else self._unusable(code)
        token = reply.said.get("access_token")
        if not isinstance(token, str):
            raise self._unusable("answer_unreadable")
        return token

    def _unusable(self, reason: str) -> RejectedError:
        # Not the user's fault: our settings do not match the project.
        logging.getLogger(__name__).warning("gotrue.unusable", extra={"reason": reason})
        return RejectedError(self._client.name, _SOON)

    async def credential(self, request: Request, token: str) -> model.Credential | None:
        """Return the principal of a token; None if it is not valid; raise if that cannot be known now."""
        claims = await self._verify(token)
        if claims is None:
            return None
        is_over = self._clock() >= claims.exp + _LEEWAY
        user = None if is_over else await self._account(request, claims)
        if user is None and not is_over:
            return None
        return model.Credential(
            id=claims.sub,
            kind=model.Kind.BEARER,
            secret_sha256=digest(token),
            principal=user.principal if user else NOBODY,
            created_at=datetime.fromtimestamp(claims.iat, UTC),
            last_used_at=datetime.fromtimestamp(self._clock(), UTC),
            expires_at=datetime.fromtimestamp(claims.exp + _LEEWAY, UTC),
            disabled_at=user.disabled_at if user else None,
        )

    async def _verify(self, token: str) -> _Claims | None:
        signed = self._signed_by_secret(token) or await self.keys.signed(token)
        try:
            claims = _Claims.model_validate(signed)
        except ValidationError:
            return None
        now = self._clock()
        has_begun = max(claims.iat, claims.nbf) <= now + _LEEWAY
        return claims if claims.iss == self._issuer and has_begun else None

    def _signed_by_secret(self, token: str) -> Mapping[str, object] | None:
        for secret in self._current().valid("jwt_secret") if len(token) <= _LONGEST else ():
            with suppress(PyJWTError, ValueError):
                return _BY_SECRET.decode(token, secret, ["HS256"], audience="authenticated")
        return None

    async def _account(self, request: Request, claims: _Claims) -> model.User | None:
        name = external_name(self._issuer, claims.sub)
        if (user := await external(self._reader, name)) is None:
            await self._transactions.write(request, NOBODY, partial(meet, name=name, new=claims.newcomer))
            user = await external(self._reader, name)
        return user


def of_project(
    rotation: Rotation, *common: Any, observer: Observer, **others: Any
) -> tuple[SupabaseAccounts, Sequence[Resource]]:
    """Return the accounts of the project that the settings name, and what to keep open for them."""

    def current() -> Settings:
        return rotation.current

    # Separate pipelines: failing sign-ins must not stop the fetching of keys, nor the reverse.
    publisher = Client("jwks", current, Timeout(3, name="jwks"), observer=observer)
    gotrue = Client(
        "gotrue",
        current,
        CircuitBreaker(
            "gotrue",
            # Sign-ins are rare: with the defaults the circuit would take an hour to open.
            config=CircuitConfig(sliding_window_size=20, minimum_number_of_calls=5),
            on=(httpx2.HTTPError, DeadlineExceededError, ValueError),
            observer=observer,
        ),
        Bulkhead("gotrue", 20, observer=observer),
        Timeout(4, name="gotrue"),  # A sign-in request has a deadline of 5 seconds.
        observer=observer,
    )
    keys = Jwks(publisher.key_set)
    accounts = SupabaseAccounts(current, gotrue, keys, *common, **others)
    return accounts, (publisher, gotrue, keys.running())


def _code(reply: Reply) -> str:
    """Return the error code; older versions use `invalid_grant` for a wrong password."""
    said = reply.said
    if said.get("error") == "invalid_grant":
        return "invalid_credentials"
    codes = [code for code in (said.get("error_code"), said.get("code")) if isinstance(code, str)]
    return codes[0][:100] if codes else f"status {reply.status_code}"
