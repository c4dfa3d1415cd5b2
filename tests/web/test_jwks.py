"""Public keys: where they come from, how long they are valid, how often they are fetched, which tokens they verify."""

from __future__ import annotations

import base64
import json
import logging
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import jwt
import pytest
from jwt import PyJWK

from postfacta_core.deadlines.present import current_deadline
from postfacta_core.errors import RejectedError
from postfacta_core.guards.timeout import Timeout
from postfacta_core.testing import ManualClock
from postfacta_web.jwks import Jwks
from tests.kit.every import every
from tests.kit.keys import Key, ec_key, rsa_key

Json = dict[str, Any]

DAY = 86_400
NOW = 1_772_366_400.0
ISSUER = "https://login.example.org/"
_PATIENCE = 20.0
FIRST, SECOND, RSA = ec_key("first"), ec_key("second"), rsa_key("second")


@dataclass
class Issuer:
    """An issuer of tokens, the keys of it, and what a test may turn.

    Attributes:
        keys: Those that it publishes.
        published: What a fetch brings instead: an object, an error, or "slow" for nothing.
        fetches: How often it was asked.
        deadlines: The deadline of each fetch.
    """

    keys: list[Key] = field(default_factory=lambda: [FIRST])
    published: object = None
    fetches: int = 0
    deadlines: list[object] = field(default_factory=list[object])
    clock: ManualClock = field(default_factory=ManualClock)
    jwks: Jwks = field(init=False)

    async def fetch(self) -> object:
        """Answer a fetch."""
        self.fetches += 1
        self.deadlines.append(current_deadline())
        if isinstance(self.published, Exception):
            raise self.published
        if self.published == "slow":
            await anyio.sleep_forever()
        return (
            {"keys": [key.public for key in self.keys]}
            if self.published is None
            else self.published
        )

    async def key(self, kid: str = "first") -> PyJWK | None:
        """Ask for a key."""
        with anyio.fail_after(_PATIENCE):
            return await self.jwks.key(kid)

    async def fetched(self, times: int) -> None:
        """Wait until the issuer was asked so often, and the answer was used."""
        with anyio.fail_after(_PATIENCE):
            while self.fetches < times or self.jwks.is_fetching:
                await anyio.sleep(0.002)
        assert self.fetches == times

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncGenerator[None]:
        """Fetch its keys."""
        settings: Json = {"timeout": 0.05} | options
        self.jwks = Jwks(self.fetch, name="login", clock=self.clock, wall=lambda: NOW, **settings)
        async with self.jwks.running():
            yield

    def claims(self, **other: object) -> Json:
        """Write the claims of a token that is valid; one that is None is left out."""
        claims: Json = {
            "iss": ISSUER,
            "aud": "billing",
            "sub": "ada",
            "exp": NOW + 300,
            "iat": NOW,
            "nbf": NOW,
        }
        return {name: value for name, value in (claims | other).items() if value is not None}

    def token(self, by: Key = FIRST, header: Json | None = None, **claims: object) -> str:
        """Sign a token."""
        headers = {"kid": by.kid} | (header or {})
        return jwt.encode(self.claims(**claims), by.private, by.algorithm, headers=headers)

    async def verify(self, token: str) -> Json | None:
        """Verify a token as its service would."""
        with anyio.fail_after(_PATIENCE):
            return await self.jwks.verify(token, issuer=ISSUER, audience="billing")


@pytest.fixture
async def issuer() -> AsyncGenerator[Issuer]:
    """Give an issuer whose keys were read once."""
    made = Issuer()
    async with made.running():
        await made.fetched(1)
        yield made


# When keys are fetched


async def test_keys_are_read_at_the_start_and_no_request_waits(issuer: Issuer) -> None:
    for _ in range(100):
        key = await issuer.key()
        assert key is not None
        assert key.algorithm_name == "ES256"
    assert issuer.fetches == 1


async def test_old_keys_are_fetched_anew_in_the_background(issuer: Issuer) -> None:
    issuer.published = "slow"
    issuer.clock.advance(600)
    assert await issuer.key() is not None
    assert issuer.jwks.is_fetching
    await issuer.fetched(2)
    issuer.clock.advance(30)
    issuer.published, issuer.keys = None, [FIRST, RSA]
    await issuer.key()
    await issuer.fetched(3)
    assert issuer.jwks.age() == 0
    second = await issuer.key("second")
    assert second is not None
    assert second.algorithm_name == "RS256"


FAILURES: list[object] = [
    OSError("away"),
    ValueError("<html>"),
    "slow",
    [],
    {},
    "text",
    {"keys": 1},
    {"keys": [1]},
]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
async def test_whatever_a_fetch_brings_the_last_good_keys_hold_for_a_day(
    issuer: Issuer, failure: object
) -> None:
    issuer.published = failure
    for times, past in ((2, 600), (3, DAY - 601)):
        issuer.clock.advance(past)
        assert await issuer.key() is not None
        await issuer.fetched(times)
    issuer.clock.advance(1)
    with pytest.raises(RejectedError) as caught:
        await issuer.key()
    assert (caught.value.policy, caught.value.retry_after) == ("login", 29)
    issuer.published = None
    issuer.clock.advance(30)
    assert await issuer.key() is not None


async def test_how_long_keys_are_fresh_and_valid_can_be_set() -> None:
    issuer = Issuer()
    async with issuer.running(fresh=10, valid=20, pause=5):
        await issuer.fetched(1)
        issuer.published = OSError()
        for past, times in ((9, 1), (1, 2), (4, 2), (1, 3)):
            issuer.clock.advance(past)
            assert await issuer.key() is not None
            await issuer.fetched(times)
        issuer.clock.advance(5)
        with pytest.raises(RejectedError):
            await issuer.key()
        assert issuer.fetches == 4
        issuer.clock.advance(4.5)
        with pytest.raises(RejectedError) as caught:
            await issuer.key()
        assert (caught.value.retry_after, issuer.fetches) == (1, 4)


async def test_a_failed_fetch_is_logged_with_its_reason(
    issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.published = {"keys": [{"kty": "oct", "k": "AA"}] * 17}
    issuer.clock.advance(600)
    await issuer.key()
    await issuer.fetched(2)
    (record,) = (vars(record) for record in caplog.records if record.levelno == logging.WARNING)
    said = (record["message"], record["policy"], record["error"], record["reason"])
    assert said == ("jwks.failed", "login", "_UnusableError", "not a set of at most 16 keys")


async def test_the_text_of_a_foreign_error_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fetch() -> object:
        raise OSError("cannot reach https://me:hunter2@login.example.org/")

    keys = Jwks(fetch)
    async with keys.running():
        with pytest.raises(RejectedError):
            await keys.key("any")
    (record,) = (vars(record) for record in caplog.records if record.levelno == logging.WARNING)
    assert (record["error"], record["reason"]) == ("OSError", "")
    assert "hunter2" not in str(record)


async def test_a_hundred_who_wait_wait_for_one_fetch() -> None:
    issuer = Issuer(published="slow")
    refused: list[RejectedError] = []

    async def ask(number: int) -> None:
        try:
            await issuer.key(f"key {number}")
        except RejectedError as error:
            refused.append(error)

    async with issuer.running(), anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(ask, number)
    assert len(refused) == 100
    assert issuer.fetches == 1


@pytest.mark.parametrize("failure", [None, OSError("away"), "slow"], ids=repr)
async def test_unknown_names_cause_one_fetch_in_each_pause(issuer: Issuer, failure: object) -> None:
    issuer.published = failure
    for minute in range(3):
        issuer.clock.advance(29.9)
        for number in range(20):
            assert await issuer.key(f"key {number}") is None
        assert issuer.fetches == 1 + minute
        issuer.clock.advance(0.1)
        assert await issuer.key(f"new in {minute}") is None
        assert issuer.fetches == 2 + minute
        assert await issuer.key() is not None


async def test_a_name_that_no_key_had_causes_no_second_fetch(issuer: Issuer) -> None:
    issuer.clock.advance(30)
    assert await issuer.key("forged") is None
    assert issuer.fetches == 2
    issuer.clock.advance(300)
    assert await issuer.key("forged") is None
    assert issuer.fetches == 2


async def test_names_that_were_unknown_are_kept_up_to_a_bound(issuer: Issuer) -> None:
    for number in range(200):
        issuer.clock.advance(30)
        assert await issuer.key(f"key {number}") is None
    asked = issuer.fetches
    for number, more in ((199, 0), (72, 0), (71, 1)):
        issuer.clock.advance(30)
        assert await issuer.key(f"key {number}") is None
        assert issuer.fetches == asked + more


async def test_a_name_that_is_too_long_is_not_looked_for(issuer: Issuer) -> None:
    issuer.clock.advance(30)
    assert await issuer.key("k" * 129) is None
    assert issuer.fetches == 1
    assert await issuer.key("k" * 128) is None
    assert issuer.fetches == 2


async def test_a_fetch_has_no_deadline_of_the_request_that_wants_it(issuer: Issuer) -> None:
    issuer.clock.advance(30)
    assert await Timeout(_PATIENCE).call(issuer.jwks.key, "second") is None
    assert issuer.deadlines == [None, None]


async def test_outside_of_its_block_a_fetch_is_an_error_of_ours(issuer: Issuer) -> None:
    keys = Jwks(issuer.fetch)
    with pytest.raises(RuntimeError, match=r"resources=\[keys.running\(\)\]"):
        await keys.key("first")
    async with keys.running():
        assert await keys.key("first") is not None
    assert await keys.key("first") is not None
    with pytest.raises(RuntimeError):
        await keys.key("second")


async def test_a_second_block_fetches_at_once_whatever_the_pause() -> None:
    issuer = Issuer()
    keys = Jwks(issuer.fetch, clock=issuer.clock)
    async with keys.running():
        assert await keys.key("first") is not None
    issuer.keys = [SECOND]
    async with keys.running():
        assert await keys.key("second") is not None
    assert issuer.fetches == 2


# Which keys are taken


async def test_a_new_key_is_found_at_once_and_a_removed_one_gone_with_the_next_fetch(
    issuer: Issuer,
) -> None:
    issuer.keys = [SECOND]
    issuer.clock.advance(30)
    assert await issuer.key("first") is not None
    assert await issuer.key("second") is not None
    assert await issuer.key("first") is None


async def test_an_empty_set_is_no_error_where_no_key_was_known() -> None:
    issuer = Issuer(keys=[])
    async with issuer.running():
        assert await issuer.key("first") is None
        assert issuer.fetches == 1
        issuer.clock.advance(30)
        assert await issuer.key("second") is None
        assert issuer.fetches == 2
        assert issuer.jwks.age() == 0


async def test_an_empty_set_takes_no_key_away(issuer: Issuer) -> None:
    issuer.published = {"keys": []}
    issuer.clock.advance(600)
    assert await issuer.key() is not None
    await issuer.fetched(2)
    assert await issuer.key() is not None
    assert issuer.jwks.age() == 600


async def test_an_empty_set_is_taken_once_the_known_keys_are_too_old(issuer: Issuer) -> None:
    issuer.published = {"keys": []}
    issuer.clock.advance(DAY)
    assert await issuer.key() is None
    assert issuer.jwks.age() == 0


@pytest.mark.parametrize("most", [16, 3])
async def test_more_keys_than_the_most_are_refused(most: int) -> None:
    issuer = Issuer()
    async with issuer.running(most_keys=most):
        await issuer.fetched(1)
        for count, age in ((most + 1, 30), (most, 0)):
            issuer.published = {"keys": [FIRST.public | {"kid": f"key {n}"} for n in range(count)]}
            issuer.clock.advance(30)
            assert (await issuer.key("key 1") is None) == (count > most)
            assert issuer.jwks.age() == age


STRANGE: list[object] = [
    {
        "kty": "oct",
        "k": "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3JldA",
        "kid": "secret",
        "alg": "HS256",
    },
    FIRST.public | {"kid": "encrypts", "use": "enc"},
    FIRST.public | {"kid": "uses", "use": ["sig"]},
    FIRST.public | {"kid": "confused", "alg": "RS256"},
    FIRST.public | {"kid": "other curve", "crv": "P-384"},
    FIRST.public | {"kid": "symmetric", "alg": "HS256"},
    FIRST.public | {"kid": 7},
    FIRST.public | {"kid": "broken", "x": 7},
    FIRST.public | {"kid": "short", "x": "AA"},
    "no object",
]


async def test_only_public_keys_for_signatures_are_taken(issuer: Issuer) -> None:
    # Not all issuers say which algorithm a key is for.
    bare = {name: value for name, value in RSA.public.items() if name not in {"alg", "use"}}
    issuer.published = {"keys": [*STRANGE, FIRST.public | {"kid": "good"}, bare]}
    issuer.clock.advance(30)
    assert await issuer.key("good") is not None
    assert await issuer.key("second") is not None
    names = (
        "secret",
        "encrypts",
        "uses",
        "confused",
        "other curve",
        "symmetric",
        "broken",
        "short",
        "first",
    )
    for name in names:
        assert await issuer.key(name) is None, name
    # And where none can be taken, those that were good before stay.
    issuer.published = {"keys": STRANGE}
    issuer.clock.advance(600)
    assert await issuer.key("good") is not None
    await issuer.fetched(3)
    assert await issuer.key("good") is not None


# Which tokens are valid


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _by_hand(
    it: Issuer, secret: bytes | None = None, payload: bytes = b"", **header: object
) -> str:
    """Sign what libraries refuse to: with a public key for a secret, or under a strange header."""
    algorithm, key = ("HS256", secret) if secret else ("ES256", FIRST.private)
    said = {"typ": "JWT", "alg": algorithm, "kid": "first"} | header
    body = payload or json.dumps(it.claims()).encode()
    signed = f"{_base64(json.dumps(said).encode())}.{_base64(body)}"
    return f"{signed}.{_base64(jwt.get_algorithm_by_name(algorithm).sign(signed.encode(), key))}"


GOOD: dict[str, Callable[[Issuer], str]] = {
    "ES256": lambda it: it.token(),
    "RS256": lambda it: it.token(by=RSA),
    "several audiences": lambda it: it.token(aud=["shop", "billing"]),
    "half a minute over": lambda it: it.token(exp=NOW - 29),
    "half a minute early": lambda it: it.token(iat=NOW + 29, nbf=NOW + 30),
    "no beginning": lambda it: it.token(iat=None, nbf=None),
    "fractions": lambda it: it.token(exp=NOW + 0.5),
    "endless": lambda it: it.token(exp=10**400),
}
FORGED: dict[str, Callable[[Issuer], str]] = {
    "empty": lambda it: "",
    "no token": lambda it: "Bearer abc",
    "no text": lambda it: "\ud800.\ud800.\ud800",
    "unsigned": lambda it: _by_hand(it, alg="none").rpartition(".")[0] + ".",
    "another's key of the same name": lambda it: it.token(by=ec_key("first")),
    "public key as a secret": lambda it: _by_hand(it, FIRST.pem),
    "public key as a secret, under its own algorithm": lambda it: _by_hand(
        it, FIRST.pem, alg="ES256"
    ),
    "another key's algorithm": lambda it: _by_hand(it, alg="RS256"),
    "another key's name": lambda it: it.token(header={"kid": "second"}),
    "no key's name": lambda it: jwt.encode(it.claims(), FIRST.private, "ES256"),
    "a key's name of null": lambda it: _by_hand(it, kid=None),
    "unknown key": lambda it: it.token(header={"kid": "none of theirs"}),
    "long key's name": lambda it: it.token(header={"kid": "k" * 200}),
    "a key's name of 7": lambda it: _by_hand(it, kid=7),
    "algorithms": lambda it: _by_hand(it, alg=["ES256", "HS256"]),
    "no algorithm": lambda it: _by_hand(it, alg=None),
    "a key of its own": lambda it: it.token(
        by=SECOND, header={"kid": "first", "jwk": SECOND.public}
    ),
    "unknown extension": lambda it: _by_hand(it, crit=["x"], x=1),
    "detached": lambda it: _by_hand(it, b64=False, crit=["b64"]),
    "too long": lambda it: it.token(about="x" * 8192),
    "deep header": lambda it: f"{_base64(b'[' * 5000)}.e30.AA",
    "deep claims": lambda it: _by_hand(it, payload=b"[" * 5000),
    "claims are a list": lambda it: _by_hand(it, payload=b'["iss"]'),
    "claims are no JSON": lambda it: _by_hand(it, payload=b"\xff"),
    "cut": lambda it: it.token()[:-8],
    "two parts": lambda it: it.token().rpartition(".")[0],
}
OTHERS: dict[str, Callable[[Issuer], str]] = {
    "other issuer": lambda it: it.token(iss="https://other.example.org/"),
    "issuer without its slash": lambda it: it.token(iss=ISSUER.rstrip("/")),
    "issuers": lambda it: _by_hand(
        it, payload=json.dumps(it.claims() | {"iss": [ISSUER]}).encode()
    ),
    "no issuer": lambda it: it.token(iss=None),
    "other audience": lambda it: it.token(aud="shop"),
    "part of the audience": lambda it: it.token(aud="bill"),
    "audience in an object": lambda it: it.token(aud={"billing": True}),
    "no audience": lambda it: it.token(aud=None),
    "no end": lambda it: it.token(exp=None),
    "over": lambda it: it.token(exp=NOW - 30),
    "end is a text": lambda it: it.token(exp=str(NOW + 300)),
    "end is true": lambda it: it.token(exp=True),
    "end is no number": lambda it: it.token(exp=math.nan),
    "not yet": lambda it: it.token(nbf=NOW + 31),
    "from the future": lambda it: it.token(iat=NOW + 31),
    "begin is a text": lambda it: it.token(nbf="now"),
    "begin is true": lambda it: it.token(nbf=True),
}


async def test_a_token_is_valid_by_its_key_and_its_claims(issuer: Issuer) -> None:
    issuer.keys = [FIRST, RSA]
    issuer.clock.advance(30)
    await issuer.key("second")
    with every() as case:
        for name, make in GOOD.items():
            with case(name):
                claims = await issuer.verify(make(issuer))
                assert claims is not None
                assert claims["sub"] == "ada"
        for name, make in (FORGED | OTHERS).items():
            with case(name):
                assert await issuer.verify(make(issuer)) is None


async def test_who_checks_the_claims_alone_gets_all_that_is_signed(issuer: Issuer) -> None:
    with every() as case:
        for name, make in OTHERS.items():
            with case(name):
                assert (await issuer.jwks.signed(make(issuer)) or {})["sub"] == "ada"
        for name, make in FORGED.items():
            with case(name):
                assert await issuer.jwks.signed(make(issuer)) is None


async def test_how_far_clocks_may_differ_can_be_set(issuer: Issuer) -> None:
    token = issuer.token(exp=NOW - 5)
    for leeway, is_valid in ((6, True), (5, False), (0, False)):
        claims = await issuer.jwks.verify(token, issuer=ISSUER, audience="billing", leeway=leeway)
        assert (claims is not None) == is_valid


async def test_without_keys_no_token_is_called_invalid() -> None:
    issuer = Issuer(published=OSError("away"))
    async with issuer.running():
        with pytest.raises(RejectedError) as caught:
            await issuer.verify(issuer.token())
        assert (caught.value.policy, caught.value.retry_after) == ("login", 30)
        # What no key could verify is invalid all the same.
        assert await issuer.verify(_by_hand(issuer, FIRST.pem)) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("issuer", ""),
        ("issuer", None),
        ("audience", ""),
        ("audience", ["billing"]),
        ("leeway", -1),
        ("leeway", None),
    ],
)
async def test_a_wrong_expectation_of_a_token_is_refused(
    issuer: Issuer, field: str, value: Any
) -> None:
    right: Json = {"issuer": ISSUER, "audience": "billing", "leeway": 30.0}
    with pytest.raises(ValueError, match=rf"^Jwks\.verify\.{field} must be .*; for example "):
        await issuer.jwks.verify(issuer.token(), **right | {field: value})


def test_bounds_that_contradict_each_other_are_refused() -> None:
    async def fetch() -> object:
        return {"keys": []}

    with pytest.raises(
        ValueError, match=r"^Jwks\.valid must be a finite number .* at least 600, not 599"
    ):
        Jwks(fetch, valid=599)
    with pytest.raises(
        ValueError, match=r"^Jwks\.timeout must be a finite number .* at most 4, not 5\.0"
    ):
        Jwks(fetch, pause=4)
