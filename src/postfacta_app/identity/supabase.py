"""Sign-in through the Supabase project (GoTrue): ask it, verify its tokens, map them to accounts.

A valid signature is not enough: the project's own API keys and anonymous users have one too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import httpx2
from jwt import PyJWT
from jwt.exceptions import PyJWTError
from pydantic import BaseModel, Field, JsonValue, TypeAdapter, ValidationError
from starlette.requests import Request

from postfacta_adapters.httpx import Outgoing, refusal_in
from postfacta_core.clock import WALL, Clock
from postfacta_core.drain.resources import Resource
from postfacta_core.errors import DeadlineExceededError, RejectedError, ResilienceError
from postfacta_core.events import Observer, ignore
from postfacta_core.guards import CircuitConfig, Guard, Pipeline
from postfacta_core.guards.breaker import CircuitBreaker
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_core.guards.timeout import Timeout
from postfacta_web.jwks import Jwks
from postfacta_web.sign_in import client_of

from ..errors import slow_down
from ..principal import NOBODY, Role
from ..settings import Rotation
from ..web.routes import Call
from . import model
from .accounts import (
    Accounts,
    add_secret,
    digest,
    external,
    external_name,
    meet,
    mint,
    wrong_password,
)

_MOST_BYTES: Final = 65_536  # of a response; a key set or a session has some kilobytes
_OK = 200
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500
_OBJECT: Final = TypeAdapter(dict[str, JsonValue])
JsonObject = Mapping[str, JsonValue]
# The status, and the JSON object; empty if it is anything else, such as HTML.
Reply = tuple[int, JsonObject]


class Client(httpx2.AsyncClient):
    """Requests paths below `/auth/v1` of the project, through the guards, outermost first."""

    def __init__(
        self, name: str, rotation: Rotation, *guards: Guard, observer: Observer = ignore
    ) -> None:
        self.name: str = name
        self._pipeline = Pipeline(*guards)
        self._rotation = rotation
        outgoing = Outgoing(name, tell=False, observer=observer)
        super().__init__(
            base_url=f"{rotation.current.db_url}/auth/v1/",
            # A compressed response could expand a thousandfold.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            transport=outgoing.transport(httpx2.AsyncHTTPTransport(trust_env=False)),
            follow_redirects=False,
            timeout=None,  # The guards' timeout is for the whole call.
            trust_env=False,
        )

    async def ask(self, method: str, path: str, body: JsonObject | None = None) -> Reply:
        """Send a request and read the whole response, of at most 64 KiB and a status below 500.

        Raise `RateLimitedError` for a 429, else `ResilienceError`, `httpx2.HTTPError` or
        `ValueError`.
        """
        return await self._pipeline.call(self._ask, method, path, body)

    async def key_set(self) -> JsonObject:
        """Return the project's public keys, for a `Jwks`; raise as `ask`."""
        status, keys = await self.ask("GET", ".well-known/jwks.json")
        if status != _OK:
            raise ValueError(f"status {status}")
        return keys

    async def _ask(self, method: str, path: str, body: JsonObject | None) -> Reply:
        key = self._rotation.current.db_key
        headers = {"apikey": key.get_secret_value() if key else ""}
        async with self.stream(method, path, json=body, headers=headers) as response:
            content = bytearray()
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > _MOST_BYTES:
                    raise ValueError(f"longer than {_MOST_BYTES} bytes")
        if refusal := refusal_in(response, self.name):
            is_limited = response.status_code == _TOO_MANY_REQUESTS
            raise slow_down(refusal.retry_after or 1) if is_limited else refusal
        if response.status_code >= _SERVER_ERROR:
            response.raise_for_status()
        try:
            return response.status_code, _OBJECT.validate_json(bytes(content))
        except ValidationError:
            return response.status_code, {}


_LONGEST: Final = 8_192  # Characters; the project's have about 1,000.
_LEEWAY: Final = 30.0  # Allowed clock difference in seconds.
# The claims are checked below, by our own clock.
_BY_SECRET: Final = PyJWT(
    {
        "enforce_minimum_key_length": True,
        "verify_exp": False,
        "verify_iat": False,
        "verify_nbf": False,
    }
)

# The highest is in the year 9999, the last of datetime.
Seconds = Annotated[float, Field(ge=0, le=253_402_300_000, allow_inf_nan=False)]


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


# A ban in the project takes effect here when this session ends.
_SESSION: Final = timedelta(hours=12)
_SOON: Final = 5.0  # Default Retry-After, in seconds.
# Answered alike, so that a failed sign-in reveals nothing else.
_WRONG: Final = {
    "email_not_confirmed",
    "invalid_credentials",
    "invalid_grant",
    "phone_not_confirmed",
    "user_banned",
    "user_not_found",
    "validation_failed",
}


class SupabaseAccounts(Accounts):
    """Signs people in with the project's passwords, and verifies tokens signed with its `keys`."""

    def __init__(
        self,
        rotation: Rotation,
        client: Client,
        keys: Jwks,
        *common: Any,
        clock: Clock = WALL,
        **options: Any,
    ) -> None:
        super().__init__(*common, **options)
        self.keys: Jwks = keys
        self._rotation = rotation
        self._issuer = rotation.current.issuer
        self._client = client
        self._clock = clock

    async def sign_in(self, call: Call, sent: model.Credentials, kind: model.Kind) -> model.Minted:
        request = call.request
        now = call.now
        async with self.limited(
            client_of(request.scope), sent.email, attempted=self._attempted
        ) as accept:
            token = await self._token(sent)
            accept()
        verified = await self.credential(request, token)
        if verified is None or verified.expires_at <= now:
            raise self._unusable("token_refused")
        if verified.outcome(digest(token), now) != "ok":
            self._attempted("revoked")
            raise wrong_password()
        if kind is not model.Kind.SESSION:
            return await self._begin(request, model.Minted(token, verified))
        minted = mint(kind, verified.principal, now, until=now + _SESSION)
        return await self._begin(request, minted, partial(add_secret, token=minted.token))

    async def _token(self, credentials: model.Credentials) -> str:
        """Exchange a password for an access token of the project; raise if it is refused."""
        try:
            status, answer = await self._client.ask(
                "POST", "token?grant_type=password", credentials.model_dump()
            )
        except (ResilienceError, httpx2.HTTPError, ValueError) as error:
            wait = error.retry_after if isinstance(error, ResilienceError) else None
            raise RejectedError(self._client.name, wait or _SOON) from error
        if status != _OK:
            # Older versions have an `error` alone.
            values = [answer.get(name) for name in ("error_code", "code", "error")]
            codes = [value for value in values if isinstance(value, str)]
            code = codes[0][:100] if codes else f"status {status}"
            raise wrong_password() if code in _WRONG else self._unusable(code)
        token = answer.get("access_token")
        if not isinstance(token, str):
            raise self._unusable("answer_unreadable")
        return token

    def _unusable(self, reason: str) -> RejectedError:
        # Not the user's fault: our settings do not match the project.
        logging.getLogger(__name__).warning("gotrue.unusable", extra={"reason": reason})
        return RejectedError(self._client.name, _SOON)

    async def credential(self, request: Request, token: str) -> model.Credential | None:
        """Return the principal of a token.

        None if it is not valid; raise if that cannot be known now.
        """
        payload = self._signed_by_secret(token) or await self.keys.signed(token)
        try:
            claims = _Claims.model_validate(payload)
        except ValidationError:
            return None
        now = self._clock()
        end = claims.exp + _LEEWAY
        if claims.iss != self._issuer or max(claims.iat, claims.nbf) > now + _LEEWAY:
            return None
        user = await self._account(request, claims) if now < end else None
        if user is None and now < end:
            return None
        return model.Credential(
            id=claims.sub,
            kind=model.Kind.BEARER,
            secret_sha256=digest(token),
            principal=user.principal if user else NOBODY,
            created_at=datetime.fromtimestamp(claims.iat, UTC),
            last_used_at=datetime.fromtimestamp(now, UTC),
            expires_at=datetime.fromtimestamp(end, UTC),
            disabled_at=user.disabled_at if user else None,
        )

    def _signed_by_secret(self, token: str) -> Mapping[str, object] | None:
        if len(token) > _LONGEST:
            return None
        for secret in self._rotation.current.valid("jwt_secret"):
            with suppress(PyJWTError, ValueError):
                return _BY_SECRET.decode(token, secret, ["HS256"], audience="authenticated")
        return None

    async def _account(self, request: Request, claims: _Claims) -> model.User | None:
        name = external_name(self._issuer, claims.sub)
        user = await external(self._reader, name)
        if user is not None:
            return user
        # A token cannot make anyone an administrator. Not a set: the value may be unhashable.
        is_writer = claims.app_metadata.get("postfacta_role") in (Role.RESPONDER, Role.ADMIN)
        role = Role.RESPONDER if is_writer else Role.VIEWER
        # Sign-in by telephone has no address.
        email = claims.email or f"{claims.sub}@no-address.invalid"
        add = partial(
            meet, name=name, email=email, display_name=email.partition("@")[0][:100], role=role
        )
        await self._transactions.write(request, NOBODY, add)
        return await external(self._reader, name)


def of_project(
    rotation: Rotation, *common: Any, observer: Observer, **options: Any
) -> tuple[SupabaseAccounts, Sequence[Resource]]:
    """Return the accounts of the project that the settings name, and what to keep open for them."""
    # Separate pipelines: failing sign-ins must not stop the fetching of keys, nor the reverse.
    publisher = Client("jwks", rotation, Timeout(3, name="jwks"), observer=observer)
    gotrue = Client(
        "gotrue",
        rotation,
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
    accounts = SupabaseAccounts(rotation, gotrue, keys, *common, **options)
    return accounts, (publisher, gotrue, keys.running())
