"""The API of accounts: sign-in, people, tokens and the audit log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol, TypeVar
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from ..db import Answer, Transactions, Unit, Work
from ..errors import (
    FieldError,
    ForbiddenError,
    InvalidCursorError,
    InvalidFieldsError,
    NotFoundError,
    RegistrationClosedError,
)
from ..principal import Principal
from ..settings import Settings
from ..web.body import if_match, read_body, read_query
from ..web.paging import decode_cursor, encode_cursor, filters_hash, next_link
from .local import add_token, clear_cookie, cookie_name, digest, mint, presented
from .model import (
    AuditPage,
    AuditQuery,
    Credential,
    Credentials,
    IssuedToken,
    Key,
    Kind,
    Me,
    Minted,
    NewToken,
    NewUser,
    Paging,
    Registration,
    SignedIn,
    Token,
    TokenPage,
    User,
    UserChange,
    UserPage,
    keep_an_admin,
)
from .postgres import PostgresIdentity

__all__ = ["Accounts", "IdentityHttp"]

Row = TypeVar("Row", User, Token)

_LONGEST_LIFE = timedelta(days=3650)


class Accounts(Protocol):
    """Manages passwords: local ones, or those of a Supabase project."""

    def now(self) -> datetime:
        """Return the current time."""
        ...

    async def sign_in(
        self, request: Request, credentials: Credentials, kind: Kind, *, answer: Callable[[Minted], Answer]
    ) -> Response:
        """Check a password; respond with a token or a session."""
        ...

    async def register(self, request: Request, sent: Registration) -> Response:
        """Register the caller."""
        ...

    async def add(self, request: Request, principal: Principal, new: NewUser) -> Response:
        """Add a person, as an administrator."""
        ...


class IdentityHttp:
    """The handlers of `/login`, `/register`, `/logout`, and of people, tokens and audit under `/api/v1`.

    Args:
        settings: Whether registration is open, and the cookie's name.
        store: Stores accounts, tokens and the audit log.
        transactions: Runs the writes.
        accounts: Checks passwords and creates accounts.
        forget: Called with tokens that lost their rights; the guard's.
    """

    def __init__(
        self,
        settings: Settings,
        store: PostgresIdentity,
        transactions: Transactions,
        *,
        accounts: Accounts,
        forget: Callable[[Callable[[Credential], bool]], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._transactions = transactions
        self._accounts = accounts
        self._forget = forget

    async def login(self, request: Request, principal: Principal) -> Response:
        """POST /login."""
        credentials = await read_body(request, Credentials)

        def answer(minted: Minted) -> Answer:
            body = SignedIn(token=minted.secret, expires_at=minted.token.expires_at)
            return Answer.of(200, body, {"Cache-Control": "no-store"})

        return await self._accounts.sign_in(request, credentials, Kind.BEARER, answer=answer)

    async def register(self, request: Request, principal: Principal) -> Response:
        """POST /register."""
        if not self._settings.register_open:
            raise RegistrationClosedError("Registration is closed; ask an administrator for an account")
        return await self._accounts.register(request, await read_body(request, Registration))

    async def logout(self, request: Request, principal: Principal) -> Response:
        """POST /logout."""
        if principal.scopes:
            raise ForbiddenError("An administrator must revoke API tokens: DELETE /api/v1/tokens/{id}")
        cookie = request.cookies.get(cookie_name(is_local=self._settings.is_local))
        secret = presented(request.headers.getlist("authorization"), cookie)

        async def work(unit: Unit) -> Answer:
            if secret is not None and principal.user_id is not None:
                await self._store.revoke_secret(unit, digest(secret), self._accounts.now())
                await unit.audit("session.end", principal.actor)
            return Answer(204, {"Set-Cookie": clear_cookie(is_local=self._settings.is_local)})

        sha256 = None if secret is None else digest(secret)
        return await self._losing(request, principal, work, is_lost=lambda it: it.secret_sha256 == sha256)

    async def me(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/me."""
        scopes = sorted(principal.scopes)
        me = Me(
            actor=principal.actor,
            name=principal.name,
            role=principal.role,
            scopes=scopes,
            source=principal.source,
        )
        return Answer.of(200, me).response()

    async def users(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/users."""
        query = read_query(request, Paging)
        rows = await self._store.users(_after(query, "users"), query.limit + 1)
        items, cursor = _page(rows, query, "users")
        page = UserPage(items=items, next_cursor=cursor)
        return Answer.of(200, page, next_link(request, cursor)).response()

    async def add_user(self, request: Request, principal: Principal) -> Response:
        """POST /api/v1/users."""
        return await self._accounts.add(request, principal, await read_body(request, NewUser))

    async def user(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/users/{id}."""
        account = await self._store.person(_id(request))
        if account is None:
            raise _missing()
        return Answer.of(200, account.user, {"ETag": account.user.etag}).response()

    async def change_user(self, request: Request, principal: Principal) -> Response:
        """PATCH /api/v1/users/{id}."""
        user_id, change = _id(request), await read_body(request, UserChange)

        async def work(unit: Unit) -> Answer:
            user, admins = await self._store.lock_user(unit, user_id)
            if user is None:
                raise _missing()
            if_match(request, user.etag)
            keep_an_admin(user, change, admins)
            changed = await self._store.change_user(unit, user_id, change, now=self._accounts.now())
            detail = change.model_dump(exclude_unset=True)
            await unit.audit("user.change", f"user:{user_id}", detail=detail)
            return Answer.of(200, changed, {"ETag": changed.etag})

        return await self._losing(
            request, principal, work, is_lost=lambda it: it.principal.user_id == user_id
        )

    async def tokens(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/tokens."""
        query = read_query(request, Paging)
        rows = await self._store.tokens(_after(query, "tokens"), query.limit + 1)
        items, cursor = _page(rows, query, "tokens")
        page = TokenPage(items=items, next_cursor=cursor)
        return Answer.of(200, page, next_link(request, cursor)).response()

    async def add_token(self, request: Request, principal: Principal) -> Response:
        """POST /api/v1/tokens."""
        new, now = await read_body(request, NewToken), self._accounts.now()
        _check_expiry(new.expires_at, now)
        minted = mint(Kind.API, principal, now, expires_at=new.expires_at)

        async def work(unit: Unit) -> Answer:
            token = await add_token(unit, self._store, new, minted=minted)
            body = IssuedToken(**token.model_dump(), secret=minted.secret)
            headers = {"Location": f"/api/v1/tokens/{token.id}", "Cache-Control": "no-store"}
            return Answer.of(201, body, headers)

        return await self._transactions.write(request, principal, work)

    async def revoke_token(self, request: Request, principal: Principal) -> Response:
        """DELETE /api/v1/tokens/{id}."""
        token_id = _id(request)

        async def work(unit: Unit) -> Answer:
            if not await self._store.revoke_token(unit, token_id, self._accounts.now()):
                raise _missing()
            await unit.audit("token.revoke", f"token:{token_id}")
            return Answer(204)

        return await self._losing(request, principal, work, is_lost=lambda it: it.id == token_id)

    async def audit(self, request: Request, principal: Principal) -> Response:
        """GET /api/v1/audit."""
        query = read_query(request, AuditQuery)
        place = _after(query, "audit")
        if place is not None and place[1].int >= 1 << 63:
            raise InvalidCursorError("Start again without a cursor")
        rows = await self._store.audit(query, None if place is None else place[1].int)
        items, cursor = rows[: query.limit], None
        if len(rows) > len(items):
            cursor = encode_cursor("audit", (items[-1].at, UUID(int=items[-1].seq)), filters_hash(query))
        page = AuditPage(items=items, next_cursor=cursor)
        return Answer.of(200, page, next_link(request, cursor)).response()

    async def _losing(
        self, request: Request, principal: Principal, work: Work, *, is_lost: Callable[[Credential], bool]
    ) -> Response:
        # Also after a failure: the outcome may be unknown, and the change committed.
        try:
            return await self._transactions.write(request, principal, work)
        finally:
            self._forget(is_lost)


def _id(request: Request) -> UUID:
    try:
        return UUID(request.path_params["id"])
    except ValueError:
        raise _missing() from None


def _missing() -> NotFoundError:
    return NotFoundError("No such id")


def _check_expiry(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and not now < expires_at <= now + _LONGEST_LIFE:
        message = "must be within the next ten years"
        raise InvalidFieldsError(message, errors=[FieldError("/expires_at", "out_of_range", message)])


def _after(query: Paging, sort: str) -> Key | None:
    return None if query.cursor is None else decode_cursor(query.cursor, sort, filters_hash(query))


def _page(rows: Sequence[Row], query: Paging, sort: str) -> tuple[Sequence[Row], str | None]:
    items = rows[: query.limit]
    if len(rows) == len(items):
        return items, None
    return items, encode_cursor(sort, (items[-1].created_at, items[-1].id), filters_hash(query))
