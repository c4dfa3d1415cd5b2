"""What no one without an account can do to the accounts of others.

Lock them out, find them, fill the memory.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import httpx2
import pytest
from argon2 import PasswordHasher

from postfacta_app import app
from postfacta_app.errors import UnauthenticatedError
from postfacta_app.identity import accounts
from postfacta_core.errors import RateLimitExceededError
from postfacta_core.limits.rate import RateCounter
from postfacta_core.testing import ManualClock
from postfacta_web.sign_in import SignInThrottle
from tests.app.live import Service, in_process

ADA, PASSWORD = "ada@tests.example", "correct horse battery"
OURS = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture(autouse=True)
def standing_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no budget of tries fill up while a busy machine is slow to use it up."""
    monkeypatch.setattr(app, "SignInThrottle", partial(SignInThrottle, clock=ManualClock()))


@pytest.fixture(autouse=True)
def weak_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a verification take no time: what is counted here is tries."""
    weak = partial(PasswordHasher, time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(accounts, "PasswordHasher", weak)


@asynccontextmanager
async def browser(service: Service, address: str) -> AsyncGenerator[httpx2.AsyncClient]:
    """Give a client with cookies of its own that comes from an address."""
    transport = httpx2.ASGITransport(service.app, client=(address, 4711))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def with_ada(service: Service) -> None:
    admin = await service.as_role("admin")
    body = {"email": ADA, "password": PASSWORD, "display_name": "Ada"}
    answer = await service.client.post("/api/v1/users", json=body, headers=admin)
    assert answer.status_code == 201, answer.text


async def submit(client: httpx2.AsyncClient, password: str = PASSWORD, email: str = ADA) -> int:
    fields = {"email": email, "password": password}
    return (await client.post("/signin", data=fields, headers=OURS)).status_code


async def guess(
    service: Service, addresses: Sequence[str], times: int, email: str = ADA
) -> list[int]:
    """Try a wrong password from each address."""
    statuses: list[int] = []
    for address in addresses:
        async with browser(service, address) as client:
            for _ in range(times):
                answer = await client.post(
                    "/login", json={"email": email, "password": "wrong horse"}
                )
                statuses.append(answer.status_code)
    return statuses


async def test_no_client_locks_another_out_of_sign_in(app_database_dsn: str) -> None:
    async with in_process(app_database_dsn) as service, browser(service, "203.0.113.9") as laptop:
        await with_ada(service)
        assert await submit(laptop) == 303
        # More than any budget of the account, from many addresses, and then from the laptop's own.
        hosts = [f"198.51.100.{host}" for host in range(12)]
        assert set(await guess(service, hosts, 8)) == {401, 429}
        assert set(await guess(service, ["203.0.113.9"], 30)) == {401, 429}
        # The live session goes on, and the device that was used before signs in.
        assert (await laptop.get("/api/v1/me")).json()["name"] == "Ada"
        assert await submit(laptop) == 303
        laptop.cookies.delete("postfacta")
        assert await submit(laptop) == 303
        # So does one that is new, from a network that has not guessed.
        async with browser(service, "192.0.2.77") as phone:
            assert await submit(phone) == 303
        # And what guesses stays out, with a made-up device or with that of somebody else.
        async with browser(service, "203.0.113.9") as attacker:
            for cookie in ("", "x.y", laptop.cookies["postfacta-device"][:-1] + "0x"):
                attacker.cookies.set("postfacta-device", cookie)
                assert await submit(attacker) == 429


async def test_a_stolen_device_guesses_ten_times_a_minute(app_database_dsn: str) -> None:
    async with in_process(app_database_dsn) as service, browser(service, "203.0.113.9") as laptop:
        await with_ada(service)
        assert await submit(laptop) == 303
        async with browser(service, "198.51.100.1") as thief:
            thief.cookies.set("postfacta-device", laptop.cookies["postfacta-device"])
            assert [await submit(thief, "wrong horse") for _ in range(12)] == [401] * 10 + [429] * 2
            # It opens nothing, and is worth nothing at another account.
            assert (await thief.get("/api/v1/me")).status_code == 401
            told = [await submit(thief, "wrong horse", "bob@tests.example") for _ in range(6)]
            assert told == [401] * 5 + [429]


async def test_no_answer_tells_whether_there_is_an_account(app_database_dsn: str) -> None:
    def shown(answer: httpx2.Response) -> tuple[Any, ...]:
        body = answer.json()
        kept = {name: body[name] for name in ("type", "title", "status", "detail") if name in body}
        return (
            answer.status_code,
            kept,
            answer.headers.get("retry-after") is None,
            sorted(answer.headers),
        )

    async with in_process(app_database_dsn) as service:
        await with_ada(service)
        told: dict[str, list[tuple[Any, ...]]] = {}
        for email, address in ((ADA, "198.51.100.1"), ("nobody@tests.example", "198.51.100.2")):
            async with browser(service, address) as client:
                client.cookies.set("postfacta-device", "x.y")
                body = {"email": email, "password": "wrong horse"}
                told[email] = [shown(await client.post("/login", json=body)) for _ in range(7)]
        assert told[ADA] == told["nobody@tests.example"]


async def test_the_throttle_keeps_a_bounded_number_of_keys() -> None:
    tries = SignInThrottle(max_keys=100, observer=None, clock=lambda: 0.0)
    for number in range(2_000):
        with suppress(UnauthenticatedError, RateLimitExceededError):
            async with tries.attempt(
                f"10.0.{number // 250}.{number % 250}", f"{number}@tests.example"
            ):
                raise UnauthenticatedError("wrong")
    limiters = [it for it in vars(tries).values() if isinstance(it, RateCounter)]
    kept = {
        it.name: sample.value
        for it in limiters
        for sample in it.tally()
        if sample.metric.endswith("_keys")
    }
    assert len(kept) == 6
    assert max(kept.values()) == 100
    assert not vars(tries)["_pending"]
