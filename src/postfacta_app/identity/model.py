"""Accounts with their credentials: model, requests, responses."""

from __future__ import annotations

import hmac
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    Json,
    JsonValue,
    StringConstraints,
    model_validator,
)

from ..principal import Principal, Role
from ..web.body import Listed, Paged, Time

Text100 = Annotated[str, StringConstraints(min_length=1, max_length=100)]


# Letters that one language writes side by side.
_SAME_SCRIPT = {
    "HIRAGANA": "CJK",
    "KATAKANA": "CJK",
    "KATAKANA-HIRAGANA": "CJK",
    "HANGUL": "CJK",
    "BOPOMOFO": "CJK",
}


def _normal(value: object) -> object:
    """Return the one form in which an address is stored and sought.

    Full-width letters and ligatures are plain.
    """
    if not isinstance(value, str):
        return value
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", value).strip().lower())


def _is_no_look_alike(email: str) -> str:
    """Refuse invisible and unassigned characters, and letters of two scripts in one word."""
    if any(unicodedata.category(letter).startswith("C") for letter in email):
        raise ValueError("must have no invisible characters")
    for word in re.split(r"[\W_]+", email):
        scripts = {
            unicodedata.name(letter, "OTHER").split()[0] for letter in word if letter.isalpha()
        }
        if len({_SAME_SCRIPT.get(script, script) for script in scripts}) > 1:
            raise ValueError("must not mix the letters of two scripts in one word")
    return email


# Only a message can verify an address; this rejects what cannot be one.
_ADDRESS = r"^[^\s@\x00-\x1f\x7f-\x9f]+@[^\s@\x00-\x1f\x7f-\x9f]+$"
_LONGEST = 320


def _is_address(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST and bool(re.match(_ADDRESS, value))


def _normal_address(value: object) -> object:
    """Refuse what is an address as it was sent, and none in its normal form.

    A diaeresis of its own becomes a space and a mark, and a full-width at sign a second `@`: the
    pattern, which the OpenAPI document has, would refuse what it seems to allow.
    """
    normal = _normal(value)
    if _is_address(value) and not _is_address(normal):
        raise ValueError("must be an address in its normal form (NFKC), too")
    return normal


Email = Annotated[
    str,
    StringConstraints(max_length=_LONGEST, pattern=_ADDRESS),
    AfterValidator(_is_no_look_alike),
    BeforeValidator(_normal_address),  # last but run first, else the document has no pattern
]
# Length alone makes a password strong (NIST SP 800-63B): no rules about characters.
Password = Annotated[str, StringConstraints(min_length=12, max_length=128)]


class Scope(StrEnum):
    """What an API token may do."""

    SIGNALS_WRITE = "signals:write"
    INCIDENTS_READ = "incidents:read"
    INCIDENTS_WRITE = "incidents:write"


class Credentials(BaseModel, extra="forbid"):
    """Credentials of a sign-in. A password that is too short is simply wrong."""

    email: Annotated[
        str, BeforeValidator(_normal), StringConstraints(max_length=_LONGEST, pattern=r"^[^\x00]*$")
    ]
    password: Annotated[str, StringConstraints(max_length=128)]


class PasswordChange(BaseModel, extra="forbid"):
    """A new password, with the one it replaces."""

    current_password: Annotated[str, StringConstraints(max_length=128)]
    password: Password


class Registration(BaseModel, extra="forbid"):
    """A new account, as its owner requests it."""

    email: Email
    password: Password
    display_name: Text100 | None = None

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.password.strip().lower() == self.email:
            raise ValueError("the password must not be the e-mail address")
        return self

    @property
    def name(self) -> str:
        """The display name; by default the part of the address before the @."""
        return self.display_name or self.email.partition("@")[0][:100]


class NewUser(Registration):
    """A new account, as an administrator adds it."""

    role: Role = Role.VIEWER


class UserChange(BaseModel, extra="forbid"):
    """A JSON Merge Patch: absent fields stay."""

    # The factories make the fields optional without allowing null; only sent fields are read.
    role: Role = Field(default_factory=lambda: Role.VIEWER)
    disabled: bool = Field(default_factory=bool)


class NewToken(BaseModel, extra="forbid"):
    """A new API token: its name, its scopes, and the one source whose signals it may write."""

    name: Text100
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    source: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")] | None = None
    expires_at: Time | None = Field(None, description="Default: in one year.")

    @model_validator(mode="after")
    def _bound(self) -> Self:
        if (Scope.SIGNALS_WRITE in self.scopes) != (self.source is not None):
            raise ValueError("a source is required with signals:write, and only allowed with it")
        if self.source in {"postfacta", "human", "manual"}:
            raise ValueError("source: postfacta, human and manual are reserved")
        return self


class AuditQuery(Paged, frozen=True):
    """Which entries of the audit log, newest first."""

    incident: UUID | None = None
    actor: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    since: Time | None = Field(None, alias="from")
    until: Time | None = Field(None, alias="to", description="Entries before it.")


class SignedIn(BaseModel):
    """A bearer token, shown once."""

    token: str
    type: Literal["Bearer"] = "Bearer"
    expires_at: Time


class Registered(BaseModel):
    """A new account."""

    id: UUID
    email: str


class Me(BaseModel):
    """The caller."""

    actor: str
    name: str
    role: Role | None
    scopes: Sequence[str]
    source: str | None


class User(BaseModel, frozen=True):
    """A person."""

    id: UUID
    email: str
    display_name: str
    role: Role
    disabled_at: Time | None
    version: int
    created_at: Time

    @property
    def etag(self) -> str:
        return f'"usr-{self.version}"'

    @property
    def actor(self) -> str:
        return f"user:{self.id}"

    @property
    def principal(self) -> Principal:
        return Principal(actor=self.actor, name=self.display_name, user_id=self.id, role=self.role)


class Account(User, frozen=True):
    """A person with their password hash, which is never shown.

    None if they have no password here.
    """

    password_hash: str | None = Field(exclude=True, repr=False)


class Token(BaseModel):
    """An API token, without its secret."""

    id: UUID
    name: str
    prefix: str
    scopes: Sequence[Scope]
    source: str | None
    created_by: UUID | None
    created_at: Time
    last_used_at: Time | None
    expires_at: Time
    revoked_at: Time | None


class IssuedToken(Token):
    """An API token with its secret, shown once."""

    secret: str


class IssuedPassword(BaseModel):
    """A new password, shown once."""

    password: str


class Session(BaseModel):
    """A browser session or bearer token of a person."""

    id: UUID
    kind: Literal["session", "bearer"]
    created_at: Time
    last_used_at: Time | None
    expires_at: Time
    is_this: bool = Field(description="Whether this request was sent with it.")


class SessionList(BaseModel):
    """The current sessions and bearer tokens of a person, newest first."""

    items: Sequence[Session]


class AuditEntry(BaseModel):
    """An entry of the audit log: who did what, when."""

    seq: int
    at: Time
    actor: str
    action: str
    object: str
    incident_id: UUID | None
    detail: Json[dict[str, JsonValue]] | None
    request_id: str | None
    client: str | None


class UserPage(Listed[User]):
    """A page of people."""


class TokenPage(Listed[Token]):
    """A page of API tokens."""


class AuditPage(Listed[AuditEntry]):
    """A page of the audit log."""


class Kind(StrEnum):
    """The kind of a token: browser session, bearer token of a person, API token of a machine."""

    SESSION = "session"
    BEARER = "bearer"
    API = "api"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A stored token and its owner, to check a presented secret against."""

    id: UUID
    kind: Kind
    secret_sha256: bytes
    principal: Principal
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
    disabled_at: datetime | None = None

    def outcome(self, sha256: bytes, now: datetime) -> str:
        """Return `ok` if this secret is valid now, else what a metric says of it."""
        if not hmac.compare_digest(self.secret_sha256, sha256):
            return "bad_credentials"
        if self.revoked_at or self.disabled_at:
            return "revoked"
        used_at = self.last_used_at or self.created_at
        is_idle = self.kind is Kind.SESSION and now >= used_at + timedelta(hours=12)
        return "expired" if is_idle or now >= self.expires_at else "ok"


@dataclass(frozen=True, slots=True)
class Minted:
    """A new secret and its stored form.

    An API token has a prefix, a sign-in here a cookie that makes the device known.
    """

    secret: str
    token: Credential
    prefix: str = ""
    device: str = ""
