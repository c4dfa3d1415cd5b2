"""Sign-in through the Supabase project (GoTrue), and the composition of its parts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

import httpx2
from pydantic import BaseModel, JsonValue, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.drain.resources import Resource
from postfacta_core.errors import DeadlineExceededError, RejectedError, ResilienceError
from postfacta_core.events import Observer
from postfacta_core.guards._circuit import CircuitConfig
from postfacta_core.guards.breaker import CircuitBreaker
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_core.guards.timeout import Timeout

from ..db import Answer, Transactions, Unit
from ..errors import (
    ConflictError,
    RegistrationClosedError,
    invalid,
)
from ..principal import Principal
from ..rotation import Rotation
from ..settings import Settings
from .client import Client, Reply
from .jwks import Jwks
from .local import Accounts, address, digest, mint, wrong_password
from .model import Credentials, Kind, Minted, NewUser, Registered, Registration
from .postgres import add_secret
from .supabase import SupabaseTokens
from .throttle import Throttle

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
_CLOSED: Final = {"email_provider_disabled", "signup_disabled"}
_TAKEN: Final = {"email_exists", "user_already_exists"}
_FIELDS: Final = {
    "email_address_invalid": ("/email", "is not accepted by the project"),
    "email_address_not_authorized": ("/email", "is not an address the project can send mail to"),
    "validation_failed": ("", "the project rejects this e-mail address or password"),
    "weak_password": ("/password", "is too weak for the project"),
}


class SignedUp(Registered):
    """A new account of the project; it cannot sign in before its address is confirmed."""

    confirmation_required: bool


class _User(BaseModel):
    id: UUID
    email: str


class SupabaseAccounts(Accounts):
    """Signs people in with passwords that the project holds."""

    def __init__(self, client: Client, tokens: SupabaseTokens, *common: Any, **others: Any) -> None:
        super().__init__(*common, **others)
        self._client = client
        self._tokens = tokens

    async def sign_in(
        self, request: Request, credentials: Credentials, kind: Kind, *, now: datetime
    ) -> Minted:
        """Have the project check a password; return its token, or a session; raises as the local way."""
        async with self._attempt(request, credentials.email):
            token = await self._token(credentials)
        found = await self._tokens.credential(request, token)
        if found is None or found.expires_at <= now:
            raise self._unusable("token_refused")
        if not found.is_good(digest(token), now):
            self._attempted("revoked")
            raise wrong_password()
        minted = Minted(token, found)
        if kind is Kind.SESSION:
            minted = mint(kind, found.principal, now, expires_at=now + _SESSION)

        async def keep(unit: Unit) -> None:
            if kind is Kind.SESSION:
                await add_secret(unit, minted.token)

        return await self._begin(request, minted, keep)

    async def register(self, request: Request, sent: Registration) -> Response:
        """Sign a person up. They become a viewer here when they first sign in."""
        body: dict[str, JsonValue] = {
            "email": sent.email,
            "password": sent.password,
            "data": {"display_name": sent.name},
        }
        async with self.throttle.attempt(address(request)):
            reply = await self._ask("signup", body)
        if reply.status_code != _OK:
            raise self._signup_refusal(_code(reply))
        said = reply.said
        try:
            # A user, or a session with one: then there is nothing to confirm.
            user = _User.model_validate(said.get("user", said))
        except ValidationError:
            raise self._unusable("answer_unreadable") from None
        signed_up = SignedUp(id=user.id, email=user.email, confirmation_required="access_token" not in said)
        return Answer.of(201, signed_up).response()

    async def add(self, request: Request, principal: Principal, new: NewUser) -> Response:
        raise RegistrationClosedError(
            "Add people in the Supabase project; they appear here when they first sign in"
        )

    async def _token(self, credentials: Credentials) -> str:
        reply = await self._ask(
            "token?grant_type=password", {"email": credentials.email, "password": credentials.password}
        )
        if reply.status_code != _OK:
            code = _code(reply)
            raise wrong_password() if code in _WRONG else self._unusable(code)
        token = reply.said.get("access_token")
        if not isinstance(token, str):
            raise self._unusable("answer_unreadable")
        return token

    async def _ask(self, path: str, body: Mapping[str, JsonValue]) -> Reply:
        try:
            return await self._client.ask("POST", path, body)
        except (ResilienceError, httpx2.HTTPError, ValueError) as error:
            wait = error.retry_after if isinstance(error, ResilienceError) else None
            raise RejectedError(self._client.name, wait or _SOON) from error

    def _signup_refusal(self, code: str) -> Exception:
        if code in _CLOSED:
            return RegistrationClosedError("Sign-ups are disabled in the Supabase project")
        if code in _TAKEN:
            return ConflictError("An account with this e-mail address already exists")
        if code in _FIELDS:
            pointer, message = _FIELDS[code]
            return invalid(pointer, code, message)
        return self._unusable(code)

    def _unusable(self, reason: str) -> RejectedError:
        # Not the user's fault: our settings do not match the project.
        logging.getLogger(__name__).warning("gotrue.unusable", extra={"reason": reason})
        return RejectedError(self._client.name, _SOON)


class Project:
    """What verifies its tokens, what signs people in, its public keys, and the context managers to keep open."""

    def __init__(
        self,
        rotation: Rotation,
        transactions: Transactions,
        *,
        throttle: Throttle,
        attempted: Callable[[str], object],
        observer: Observer,
    ) -> None:
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
        self.keys: Jwks = Jwks(partial(publisher.ask, "GET", ".well-known/jwks.json"))
        self.tokens: SupabaseTokens = SupabaseTokens(current, transactions, keys=self.keys)
        self.accounts: SupabaseAccounts = SupabaseAccounts(
            gotrue, self.tokens, transactions, throttle=throttle, attempted=attempted
        )
        self.resources: Sequence[Resource] = (publisher, gotrue, self.keys.running())


def _code(reply: Reply) -> str:
    """Return the error code; older versions use `invalid_grant` for a wrong password."""
    said = reply.said
    if said.get("error") == "invalid_grant":
        return "invalid_credentials"
    codes = [code for code in (said.get("error_code"), said.get("code")) if isinstance(code, str)]
    return codes[0][:100] if codes else f"status {reply.status_code}"
