"""Verify tokens of the Supabase project, and map them to accounts.

A valid signature is not enough: the project's own API keys, anonymous users and other projects have one too. So each
claim must have one value, and the role of an account is that of our own row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Annotated, Final, Literal
from uuid import UUID

import jwt
from jwt.exceptions import InvalidSignatureError, PyJWTError
from pydantic import BaseModel, Field, JsonValue, ValidationError
from starlette.requests import Request

from postfacta_core.clock import WALL, Clock

from ..db import Answer, Transactions, Unit
from ..principal import NOBODY, Role
from ..settings import Settings
from .jwks import LONGEST_KID, Jwks
from .local import digest
from .model import Credential, Email, Kind, Newcomer, User
from .postgres import external, external_name, meet

_LONGEST: Final = 8_192  # Characters; the project's have about 1,000.
_LEEWAY: Final = 30.0  # Allowed clock difference in seconds.
_LATEST: Final = 253_402_300_000.0  # In the year 9999, the last that datetime supports.
_SIGNED: Final = jwt.PyJWS(options={"enforce_minimum_key_length": True})

Seconds = Annotated[float, Field(ge=0, le=_LATEST, allow_inf_nan=False)]


class _Claims(BaseModel, strict=True, frozen=True):
    """The claims of a verified token. `user_metadata` is not read: users can edit their own."""

    iss: str
    aud: Literal["authenticated"]
    role: Literal["authenticated"]
    sub: UUID
    exp: Seconds
    iat: Seconds
    nbf: Seconds = 0.0
    is_anonymous: Literal[False] = False
    email: Email | Literal[""] | None = None
    app_metadata: Mapping[str, JsonValue] = Field(default_factory=dict[str, JsonValue])

    @property
    def newcomer(self) -> Newcomer:
        """The person, for their first sign-in. A token cannot make anyone an administrator."""
        # Not a set: the value may be unhashable.
        is_writer = self.app_metadata.get("postfacta_role") in (Role.RESPONDER, Role.ADMIN)
        # Sign-in by telephone has no address.
        email = self.email or f"{self.sub}@no-address.invalid"
        name = email.partition("@")[0][:100]
        return Newcomer(email=email, display_name=name, role=Role.RESPONDER if is_writer else Role.VIEWER)


class SupabaseTokens:
    """Verifies tokens and finds their accounts."""

    def __init__(
        self,
        current: Callable[[], Settings],
        transactions: Transactions,
        *,
        keys: Jwks,
        clock: Clock = WALL,
    ) -> None:
        self._current = current
        self._issuer = current().issuer
        self._transactions = transactions
        self._keys = keys
        self._clock = clock

    async def credential(self, request: Request, token: str) -> Credential | None:
        """Return the principal of a token; None if it is not valid; raise if that cannot be known now."""
        claims = await self._verify(token)
        if claims is None:
            return None
        if self._clock() >= claims.exp + _LEEWAY:
            return self._credential(token, claims, None)
        user = await self._account(request, claims)
        return None if user is None else self._credential(token, claims, user)

    async def _verify(self, token: str) -> _Claims | None:
        if len(token) > _LONGEST:
            return None
        try:
            keys = await self._keys_for(jwt.get_unverified_header(token))
            payload = next((signed for key in keys if (signed := _payload(token, key)) is not None), None)
            if payload is None:
                return None
            claims = _Claims.model_validate_json(payload)
        except (PyJWTError, ValidationError):
            return None
        now = self._clock()
        has_begun = max(claims.iat, claims.nbf) <= now + _LEEWAY
        return claims if claims.iss == self._issuer and has_begun else None

    async def _keys_for(self, header: Mapping[str, object]) -> Collection[jwt.PyJWK | str]:
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm == "HS256":
            return self._current().valid("jwt_secret")
        if algorithm not in ("ES256", "RS256") or not isinstance(kid, str) or len(kid) > LONGEST_KID:
            return ()
        key = await self._keys.key(kid)
        return () if key is None else (key,)

    async def _account(self, request: Request, claims: _Claims) -> User | None:
        name, reader = external_name(self._issuer, claims.sub), self._transactions.reader(NOBODY)

        async def work(unit: Unit) -> Answer:
            await meet(unit, name, claims.newcomer)
            return Answer(204)

        if (user := await external(reader, name)) is None:
            await self._transactions.write(request, NOBODY, work)
            user = await external(reader, name)
        return user

    def _credential(self, token: str, claims: _Claims, user: User | None) -> Credential:
        return Credential(
            id=claims.sub,
            kind=Kind.BEARER,
            secret_sha256=digest(token),
            principal=user.principal if user else NOBODY,
            created_at=datetime.fromtimestamp(claims.iat, UTC),
            last_used_at=datetime.fromtimestamp(self._clock(), UTC),
            expires_at=datetime.fromtimestamp(claims.exp + _LEEWAY, UTC),
            disabled_at=user.disabled_at if user else None,
        )


def _payload(token: str, key: jwt.PyJWK | str) -> bytes | None:
    # One algorithm per call, set by the key and never by the token.
    algorithm = key.algorithm_name if isinstance(key, jwt.PyJWK) else "HS256"
    try:
        payload: bytes = _SIGNED.decode(token, key, algorithms=[algorithm])
    except InvalidSignatureError:
        return None
    return payload
