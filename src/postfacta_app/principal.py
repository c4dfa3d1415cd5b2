"""Callers, roles and access levels."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class Role(StrEnum):
    """The role of a person, least privileged first."""

    VIEWER = "viewer"
    RESPONDER = "responder"
    ADMIN = "admin"


class Access(StrEnum):
    """The access that a route requires."""

    OPEN = "open"
    SIGNED_IN = "signed-in"
    READ = "read"
    ANNOTATE = "annotate"
    WRITE = "write"
    INGEST = "ingest"
    ADMIN = "admin"


_PEOPLE = {
    Role.VIEWER: {Access.OPEN, Access.SIGNED_IN, Access.READ, Access.ANNOTATE},
    Role.RESPONDER: set(Access) - {Access.ADMIN},
    Role.ADMIN: set(Access),
}
_SCOPES = {
    "incidents:read": {Access.SIGNED_IN, Access.READ},
    "incidents:write": {Access.SIGNED_IN, Access.READ, Access.ANNOTATE, Access.WRITE},
    "signals:write": {Access.SIGNED_IN, Access.INGEST},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A person, or a machine with an API token."""

    actor: str  # the stable name that facts record: `user:<uuid>`, `token:<uuid>` or `anonymous`
    name: str  # the display name
    user_id: UUID | None = None  # the person's id; None for tokens and anonymous callers
    role: Role | None = None  # the person's role; None for tokens and anonymous callers
    scopes: frozenset[str] = frozenset()  # the token's scopes
    source: str | None = None  # the one source whose signals a token may write
    session_csrf: str | None = None  # the CSRF token of a browser session; None otherwise

    def __hash__(self) -> int:
        # All else depends on it, but for the session; the hash of the whole is asked for several
        # times a request.
        return hash(self.actor)

    @property
    def is_signed_in(self) -> bool:
        return self.role is not None or bool(self.scopes)

    @property
    def is_admin(self) -> bool:
        """Whether the caller is an administrator; tokens never are."""
        return self.role is Role.ADMIN

    def may(self, access: Access) -> bool:
        if self.role is not None:
            return access in _PEOPLE[self.role]
        return access is Access.OPEN or any(access in _SCOPES[scope] for scope in self.scopes)


NOBODY = Principal(actor="nobody", name="nobody")  # not signed in
# Every caller in auth mode `none`.
ANONYMOUS = Principal(actor="anonymous", name="anonymous", role=Role.RESPONDER)
