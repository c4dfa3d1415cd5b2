"""Sign people in, and up, at the Supabase project (GoTrue)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import httpx2
from pydantic import BaseModel, JsonValue, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.clock import WALL, Clock
from postfacta_core.errors import RejectedError, ResilienceError

from ..db import Answer, Transactions, Unit
from ..errors import (
    AppError,
    ConflictError,
    FieldError,
    InvalidFieldsError,
    RateLimitedError,
    RegistrationClosedError,
)
from ..principal import Principal
from .client import Client, Reply
from .local import address, digest, mint, wrong_password
from .model import Credentials, Kind, Minted, NewUser, Registered, Registration, Store
from .supabase import SupabaseTokens
from .throttle import Throttle

__all__ = ["SignedUp", "SupabaseAccounts"]

_OK: Final = 200
_SESSION: Final = timedelta(
    hours=12
)  # Of a person whom the project bans since, this is the last that is seen.
_SOON: Final = 5.0  # Seconds, if nobody says when a new try makes sense.
# Whatever was wrong, whoever tries to sign in learns no more than that.
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
    "email_address_invalid": ("/email", "is no address that the project takes"),
    "email_address_not_authorized": ("/email", "is no address that the project sends to"),
    "validation_failed": ("", "the project does not take this e-mail address, or this password"),
    "weak_password": ("/password", "is too weak for the project"),
}


class SignedUp(Registered):
    """A new account of the project; until its address is confirmed, nobody can sign in with it."""

    confirmation_required: bool


class _Token(BaseModel):
    access_token: str


class _User(BaseModel):
    id: UUID
    email: str


class SupabaseAccounts:
    """Signs in people whose passwords the project keeps.

    Args:
        client: Asks the project; it must let nothing take longer than a request to sign in may.
        tokens: Reads what it answers.
        store: Where sessions are.
        transactions: A session begins in one.
        throttle: Counts tries: for the project they all come from one address, which is ours.
        attempted: Told how each attempt to sign in ended.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        client: Client,
        tokens: SupabaseTokens,
        store: Store,
        *,
        transactions: Transactions,
        throttle: Throttle | None = None,
        attempted: Callable[[str], object] = lambda _: None,
        clock: Clock = WALL,
    ) -> None:
        self._client = client
        self._tokens = tokens
        self._store = store
        self._transactions = transactions
        self._throttle = throttle or Throttle()
        self._attempted = attempted
        self._clock = clock

    def now(self) -> datetime:
        """Read the clock."""
        return datetime.fromtimestamp(self._clock(), UTC)

    async def sign_in(
        self, request: Request, credentials: Credentials, kind: Kind, *, answer: Callable[[Minted], Answer]
    ) -> Response:
        """Let the project check a password, and answer with its token, or with a session of our own.

        Raises:
            UnauthenticatedError: With one text, whatever was wrong.
            RateLimitedError: After too many tries.
            RejectedError: If the project cannot be asked now, or answers what cannot be used.
        """
        try:
            async with self._throttle.attempt(address(request), credentials.email):
                token = await self._token(credentials)
        except AppError as error:
            self._attempted("limited" if isinstance(error, RateLimitedError) else "bad_credentials")
            raise
        found = await self._tokens.credential(request, token)
        if found is None or found.expires_at <= self.now():
            raise self._unusable("token_refused")
        if not found.is_good(digest(token), self.now()):
            self._attempted("revoked")
            raise wrong_password()
        minted = Minted(token, found)
        if kind is Kind.SESSION:
            minted = mint(kind, found.principal, self.now(), expires_at=self.now() + _SESSION)

        async def work(unit: Unit) -> Answer:
            if kind is Kind.SESSION:
                await self._store.add_secret(unit, minted.token)
            await unit.audit("session.begin", unit.principal.actor, detail={"kind": kind})
            return answer(minted)

        response = await self._transactions.write(request, found.principal, work)
        self._attempted("ok")
        return response

    async def register(self, request: Request, sent: Registration) -> Response:
        """Sign somebody up. Here he becomes a viewer when he first signs in.

        Raises:
            AppError: If the project refuses it.
            RejectedError: If the project cannot be asked now, or answers what cannot be used.
        """
        body: dict[str, JsonValue] = {
            "email": sent.email,
            "password": sent.password,
            "data": {"display_name": sent.name},
        }
        async with self._throttle.attempt(address(request)):
            reply = await self._ask("signup", body)
        if reply.status_code != _OK:
            raise self._signup_refusal(_code(reply))
        said = reply.members()
        try:
            # A user, or a session that holds one: then there is nothing to confirm.
            user = _User.model_validate(said.get("user", said))
        except ValidationError:
            raise self._unusable("answer_unreadable") from None
        signed_up = SignedUp(id=user.id, email=user.email, confirmation_required="access_token" not in said)
        return Answer.of(201, signed_up).response()

    async def add(self, request: Request, principal: Principal, new: NewUser) -> Response:
        """Refuse to: whoever is added in the project becomes known here when he first signs in.

        Raises:
            RegistrationClosedError: Always.
        """
        raise RegistrationClosedError(
            "Add people in the Supabase project: here they appear with their first sign-in"
        )

    async def _token(self, credentials: Credentials) -> str:
        reply = await self._ask(
            "token?grant_type=password", {"email": credentials.email, "password": credentials.password}
        )
        if reply.status_code != _OK:
            code = _code(reply)
            raise wrong_password() if code in _WRONG else self._unusable(code)
        try:
            return _Token.model_validate(reply.members()).access_token
        except ValidationError:
            raise self._unusable("answer_unreadable") from None

    async def _ask(self, path: str, body: Mapping[str, JsonValue]) -> Reply:
        try:
            return await self._client.ask("POST", path, body)
        except (ResilienceError, httpx2.HTTPError, ValueError) as error:
            wait = error.retry_after if isinstance(error, ResilienceError) else None
            raise RejectedError(self._client.name, wait or _SOON) from error

    def _signup_refusal(self, code: str) -> Exception:
        if code in _CLOSED:
            return RegistrationClosedError("The Supabase project takes nobody on: ask an administrator")
        if code in _TAKEN:
            return ConflictError("There is an account with this e-mail address already")
        if code in _FIELDS:
            pointer, message = _FIELDS[code]
            return InvalidFieldsError(message, errors=[FieldError(pointer, code, message)])
        return self._unusable(code)

    def _unusable(self, reason: str) -> RejectedError:
        # Whoever signs in can do nothing about it: the settings here and the project there do not fit.
        logging.getLogger(__name__).warning("gotrue.unusable", extra={"reason": reason})
        return RejectedError(self._client.name, _SOON)


def _code(reply: Reply) -> str:
    """Read why it was refused; older versions call a wrong password `invalid_grant`."""
    said = reply.members()
    if said.get("error") == "invalid_grant":
        return "invalid_credentials"
    codes = [code for code in (said.get("error_code"), said.get("code")) if isinstance(code, str)]
    return codes[0][:100] if codes else f"status {reply.status_code}"
