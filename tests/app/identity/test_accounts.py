"""Passwords, throttle, secrets, cookies: what a local sign-in is made of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import VerifyMismatchError

from postfacta_app.errors import RateLimitedError, UnauthenticatedError
from postfacta_app.identity.accounts import (
    SECRET,
    Passwords,
    digest,
    mint,
    session_cookie,
)
from postfacta_app.identity.guard import presented
from postfacta_app.identity.model import Kind
from postfacta_app.principal import Principal, Role
from postfacta_core.errors import LoadShedError

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ADA = Principal(actor="user:1", name="Ada", role=Role.VIEWER)


class CountingHasher(PasswordHasher):
    """argon2id, as weak as it gets, that counts its verifications."""

    def __init__(self, time_cost: int = 1) -> None:
        super().__init__(time_cost=time_cost, memory_cost=8, parallelism=1)
        self.verified: list[str] = []
        self.hashed = 0

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        self.hashed += 1
        return super().hash(password, salt=salt)

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]  # noqa: A002 - argon2's name
        self.verified.append(str(hash))
        return super().verify(hash, password)


# Passwords


async def test_a_password_is_known_again_and_another_is_not() -> None:
    passwords = Passwords(CountingHasher())
    stored = await passwords.hash("correct horse battery")
    assert stored.startswith("$argon2id$")
    assert await passwords.verify(stored, "correct horse battery")
    assert not await passwords.verify(stored, "correct horse batterz")
    assert not await passwords.verify("not a hash", "correct horse battery")


async def test_a_verification_that_lacks_memory_is_no_wrong_password() -> None:
    passwords = Passwords(CountingHasher())
    stored = (await passwords.hash("correct horse battery")).replace(
        "m=8,", f"m={2**32 - 1},"
    )  # 4 TiB
    with pytest.raises(LoadShedError):
        await passwords.verify(stored, "correct horse battery")


async def test_an_unknown_account_costs_one_verification_of_the_same_strength_and_is_refused() -> (
    None
):
    hasher = CountingHasher()
    passwords = Passwords(hasher)
    assert not await passwords.verify(None, "correct horse battery")
    assert len(hasher.verified) == 1
    stored = await passwords.hash("x")
    strength = "$argon2id$v=19$m=8,t=1,p=1$"
    assert hasher.verified[0].startswith(strength)
    assert stored.startswith(strength)


async def test_an_unknown_account_is_verified_against_a_whole_hash_that_cost_nothing() -> None:
    hasher = CountingHasher()
    assert not await Passwords(hasher).verify(None, "x")
    assert hasher.hashed == 0
    [nobody] = hasher.verified
    assert extract_parameters(nobody) == extract_parameters(hasher.hash("x"))
    with pytest.raises(VerifyMismatchError):  # Any fault of the text would be found sooner.
        hasher.verify(nobody, "x")


async def test_a_hash_is_renewed_only_after_the_parameters_changed() -> None:
    old, new = Passwords(CountingHasher()), Passwords(CountingHasher(time_cost=2))
    stored = await old.hash("correct horse battery")
    assert await old.renew(stored, "correct horse battery") is None
    renewed = await new.renew(stored, "correct horse battery")
    assert renewed is not None
    assert "t=2" in renewed
    assert await new.verify(renewed, "correct horse battery")


async def test_verifications_beyond_the_queue_limit_get_429() -> None:
    passwords, refused = Passwords(CountingHasher()), 0

    async def knock() -> None:
        nonlocal refused
        try:
            await passwords.verify(None, "x")
        except RateLimitedError:
            refused += 1

    async with anyio.create_task_group() as group:
        for _ in range(60):
            group.start_soon(knock)
    assert 0 < refused < 60


# Secrets


@pytest.mark.parametrize(
    ("kind", "life"),
    [
        (Kind.SESSION, timedelta(days=7)),
        (Kind.BEARER, timedelta(hours=24)),
        (Kind.API, timedelta(days=365)),
    ],
)
def test_each_kind_of_secret_has_its_life_and_only_its_hash_is_kept(
    kind: Kind, life: timedelta
) -> None:
    minted = mint(kind, ADA, NOW)
    assert minted.token.expires_at == NOW + life
    assert minted.token.secret_sha256 == digest(minted.secret)
    assert minted.secret not in repr(minted.token)


def test_secrets_have_256_bits_and_a_shape_that_tells_an_api_token() -> None:
    session, api = mint(Kind.SESSION, ADA, NOW), mint(Kind.API, ADA, NOW)
    assert len(session.secret) == 43
    assert session.secret != mint(Kind.SESSION, ADA, NOW).secret
    found = SECRET.fullmatch(api.secret)
    assert found is not None
    assert (found["prefix"], len(api.prefix), len(api.secret)) == (api.prefix, 8, 55)
    plain = SECRET.fullmatch(session.secret)
    assert plain is not None
    assert plain["prefix"] is None


def test_a_secret_keeps_the_end_that_was_asked_for() -> None:
    assert mint(Kind.API, ADA, NOW, until=NOW).token.expires_at == NOW


@pytest.mark.parametrize(
    ("headers", "cookie", "secret"),
    [
        ([], None, None),
        ([], "", None),
        ([], "c", "c"),
        (["Bearer abc"], "c", "abc"),
        (["bEARER   abc "], None, "abc"),
    ],
)
def test_a_header_goes_before_a_cookie(
    headers: list[str], cookie: str | None, secret: str | None
) -> None:
    assert presented(headers, cookie) == secret


@pytest.mark.parametrize(
    "headers",
    [["Basic abc"], ["Bearer"], ["Bearer a b"], [""], ["Bearer a", "Bearer a"], ["Bearera"]],
    ids=str,
)
def test_what_is_not_one_bearer_token_is_refused(headers: list[str]) -> None:
    with pytest.raises(UnauthenticatedError, match="a single Bearer token"):
        presented(headers, "cookie")


# Browsers


def test_the_cookie_is_bound_to_host_and_tls_except_on_a_developers_machine() -> None:
    week = timedelta(days=7)
    assert session_cookie("s", week, is_local=False) == (
        "__Host-postfacta=s; Max-Age=604800; Path=/; Secure; HttpOnly; SameSite=Lax"
    )
    assert session_cookie("s", week, is_local=True) == (
        "postfacta=s; Max-Age=604800; Path=/; HttpOnly; SameSite=Lax"
    )
    assert session_cookie("", timedelta(0), is_local=False) == (
        "__Host-postfacta=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax"
    )
