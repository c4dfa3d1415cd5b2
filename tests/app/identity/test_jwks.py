"""Public keys: where they come from, how long they are valid, how often they are fetched."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest
from jwt import PyJWK
from pydantic import JsonValue

from postfacta_app.identity.project import Client, Jwks, Reply
from postfacta_core.deadlines.present import current_deadline
from postfacta_core.errors import RejectedError
from postfacta_core.guards.timeout import Timeout
from postfacta_core.testing import ManualClock

from .project import FakeProject, ec_key, rsa_key

DAY = 86_400
_PATIENCE = 20.0
FAILURES = ["down", "slow", "oversized", "moved", "inflated", "", "[]", "{}", '{"keys": 1}', "[" * 60_000]


@dataclass
class Keys:
    """The cache in front of a project, and its clock."""

    project: FakeProject
    clock: ManualClock = field(default_factory=ManualClock)

    async def key(self, kid: str = "first") -> PyJWK | None:
        with anyio.fail_after(_PATIENCE):
            return await self.jwks.key(kid)

    async def fetched(self, times: int) -> None:
        """Wait until the project was asked so often, and the answer was used."""
        with anyio.fail_after(_PATIENCE):
            while self.project.fetches < times or self.jwks.is_fetching:
                await anyio.sleep(0.002)
        assert self.project.fetches == times

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        settings = self.project.settings()
        async with (
            Client("jwks", lambda: settings, Timeout(_PATIENCE)) as patient,
            Client("jwks", lambda: settings, Timeout(0.3)) as hasty,
        ):

            async def fetch() -> Reply:
                # A busy machine may take long to answer at once.
                client = hasty if self.project.published == "slow" else patient
                return await client.ask("GET", ".well-known/jwks.json")

            self.jwks = Jwks(fetch, clock=self.clock)
            async with self.jwks.running():
                yield


@pytest.fixture
async def keys(project: FakeProject) -> AsyncGenerator[Keys]:
    """Give a cache that has read the keys once."""
    made = Keys(project)
    async with made.running():
        await made.fetched(1)
        yield made


async def test_the_keys_are_read_at_the_start_and_then_no_request_waits_for_them(keys: Keys) -> None:
    for _ in range(100):
        key = await keys.key()
        assert key is not None
        assert key.algorithm_name == "ES256"
    assert keys.project.fetches == 1


async def test_old_keys_are_fetched_anew_in_the_background(keys: Keys) -> None:
    keys.project.published = "slow"
    keys.clock.advance(600)
    assert await keys.key() is not None
    assert keys.jwks.is_fetching
    await keys.fetched(2)
    keys.clock.advance(30)
    keys.project.published, keys.project.keys = None, [ec_key("first"), rsa_key("second")]
    await keys.key()
    await keys.fetched(3)
    assert keys.jwks.age() == 0
    second = await keys.key("second")
    assert second is not None
    assert second.algorithm_name == "RS256"


@pytest.mark.parametrize("failure", FAILURES, ids=lambda text: ascii(text[:12]))
async def test_whatever_the_endpoint_does_the_last_good_keys_hold_for_a_day(keys: Keys, failure: str) -> None:
    keys.project.published = failure
    for times, past in ((2, 600), (3, DAY - 601)):
        keys.clock.advance(past)
        assert await keys.key() is not None
        await keys.fetched(times)
    keys.clock.advance(1)
    with pytest.raises(RejectedError) as caught:
        await keys.key()
    assert caught.value.retry_after is not None
    keys.project.published = None
    keys.clock.advance(30)
    assert await keys.key() is not None


async def test_a_hundred_who_wait_wait_for_one_fetch_and_not_longer_than_it(project: FakeProject) -> None:
    project.published = "slow"
    keys = Keys(project)
    async with keys.running():
        refused: list[RejectedError] = []

        async def ask(number: int) -> None:
            try:
                await keys.key(f"key {number}")
            except RejectedError as error:
                refused.append(error)

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(ask, number)
        assert len(refused) == 100
        assert project.fetches == 1


@pytest.mark.parametrize("failure", [None, "down", "slow"])
async def test_unknown_names_cause_one_fetch_in_half_a_minute_whatever_comes_of_it(
    keys: Keys, failure: str | None
) -> None:
    keys.project.published = failure
    for minute in range(3):
        keys.clock.advance(29.9)
        for number in range(20):
            assert await keys.key(f"key {number}") is None
        assert keys.project.fetches == 1 + minute
        keys.clock.advance(0.1)
        assert await keys.key(f"new in {minute}") is None
        assert keys.project.fetches == 2 + minute
        assert await keys.key() is not None


async def test_a_name_that_was_not_among_the_keys_causes_no_second_fetch(keys: Keys) -> None:
    keys.clock.advance(30)
    assert await keys.key("forged") is None
    assert keys.project.fetches == 2
    keys.clock.advance(300)
    assert await keys.key("forged") is None
    assert keys.project.fetches == 2


async def test_names_that_were_unknown_are_kept_up_to_a_bound() -> None:
    clock, fetches = ManualClock(), list[float]()
    published: dict[str, JsonValue] = {"keys": [ec_key("first").public]}

    async def fetch() -> Reply:
        fetches.append(clock())
        return Reply(200, published)

    jwks = Jwks(fetch, clock=clock)
    async with jwks.running():
        for number in range(200):
            clock.advance(30)
            assert await jwks.key(f"key {number}") is None
        asked = len(fetches)
        for number, more in ((199, 0), (72, 0), (71, 1)):
            clock.advance(30)
            assert await jwks.key(f"key {number}") is None
            assert len(fetches) == asked + more


async def test_a_new_key_is_found_at_once_and_a_removed_one_is_gone_with_the_next_fetch(keys: Keys) -> None:
    keys.project.keys = [ec_key("second")]
    keys.clock.advance(30)
    assert await keys.key("first") is not None
    assert await keys.key("second") is not None
    assert await keys.key("first") is None


async def test_an_empty_set_is_no_error_for_a_project_that_signs_otherwise(project: FakeProject) -> None:
    project.keys = []
    keys = Keys(project)
    async with keys.running():
        assert await keys.key("first") is None
        assert project.fetches == 1
        keys.clock.advance(30)
        assert await keys.key("second") is None
        assert project.fetches == 2
        assert keys.jwks.age() == 0


async def test_an_empty_set_takes_no_key_away(keys: Keys) -> None:
    keys.project.published = '{"keys": []}'
    keys.clock.advance(600)
    assert await keys.key() is not None
    await keys.fetched(2)
    assert await keys.key() is not None
    assert keys.jwks.age() == 600


async def test_a_name_that_is_too_long_is_not_even_looked_for(keys: Keys) -> None:
    keys.clock.advance(30)
    assert await keys.key("k" * 129) is None
    assert keys.project.fetches == 1
    assert await keys.key("k" * 128) is None
    assert keys.project.fetches == 2


async def test_more_keys_than_a_project_has_are_refused(keys: Keys) -> None:
    own = keys.project.keys[0].public
    for count, age in ((17, 30), (16, 0)):
        keys.project.published = json.dumps({"keys": [own | {"kid": f"key {n}"} for n in range(count)]})
        keys.clock.advance(30)
        assert (await keys.key("key 1") is None) == (count > 16)
        assert keys.jwks.age() == age


async def test_only_public_keys_for_signatures_are_taken(keys: Keys) -> None:
    own = keys.project.keys[0].public
    strange = [
        {
            "kty": "oct",
            "k": "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3JldA",
            "kid": "secret",
            "alg": "HS256",
        },
        own | {"kid": "encrypts", "use": "enc"},
        own | {"kid": "confused", "alg": "RS256"},
        own | {"kid": "other curve", "crv": "P-384"},
        own | {"kid": "symmetric", "alg": "HS256"},
        own | {"kid": 7},
        own | {"kid": "broken", "x": 7},
        own | {"kid": "short", "x": "AA"},
        "no object",
    ]
    keys.project.published = json.dumps({"keys": [*strange, own | {"kid": "good"}]})
    keys.clock.advance(30)
    assert await keys.key("good") is not None
    for name in ("secret", "encrypts", "confused", "other curve", "symmetric", "broken", "short", "first"):
        assert await keys.key(name) is None, name
    # And where none can be taken, those that were good before stay.
    keys.project.published = json.dumps({"keys": strange})
    keys.clock.advance(600)
    assert await keys.key("good") is not None
    await keys.fetched(3)
    assert await keys.key("good") is not None


async def test_a_fetch_has_no_deadline_of_the_request_that_wants_it() -> None:
    deadlines: list[object] = []

    async def fetch() -> Reply:
        deadlines.append(current_deadline())
        return Reply(200, {"keys": [ec_key("first").public]})

    clock = ManualClock()
    jwks = Jwks(fetch, clock=clock)
    async with jwks.running():
        assert await jwks.key("first") is not None
        clock.advance(30)
        assert await Timeout(_PATIENCE).call(jwks.key, "second") is None
    assert deadlines == [None, None]
