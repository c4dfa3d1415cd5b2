"""How often a password may be tried: by account, by address, and what counts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import anyio
import pytest
from anyio.lowlevel import checkpoint

from postfacta_app.errors import RateLimitedError, UnauthenticatedError
from postfacta_app.identity import throttle
from postfacta_app.identity.throttle import Throttle
from postfacta_core.errors import DatabaseUnavailableError, DeadlineExceededError
from postfacta_core.limits._rates import Decision
from postfacta_core.limits.rate import Charge, hit_all

ADA = "ada@example.org"


async def hit_all_slowly(charges: Sequence[Charge], *, spend: bool = True) -> list[Decision]:
    """Ask as a store on another machine is asked: others come in between."""
    await checkpoint()
    return await hit_all(charges, spend=spend)


class Tries:
    """A throttle with a clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.throttle = Throttle(clock=lambda: self.now)

    async def outcome(self, error: Exception | None, address: str, account: str = ADA, **how: str) -> str:
        with suppress(UnauthenticatedError, DatabaseUnavailableError, DeadlineExceededError):
            try:
                async with self.throttle.attempt(address, account, **how):
                    if error is None:
                        return "ok"
                    raise error
            except RateLimitedError as refusal:
                return refusal.headers["Retry-After"]
        return "failed"

    async def wrong(self, address: str, account: str = ADA, *, times: int = 1, **how: str) -> list[str]:
        return [
            await self.outcome(UnauthenticatedError("wrong"), address, account, **how) for _ in range(times)
        ]

    async def right(self, address: str, account: str = ADA, **how: str) -> str:
        return await self.outcome(None, address, account, **how)


async def test_a_network_has_five_wrong_tries_a_minute_at_an_account() -> None:
    tries = Tries()
    assert await tries.wrong("192.0.2.1", times=6) == ["failed"] * 5 + ["12"]
    assert await tries.right("192.0.2.1") == "12"
    assert await tries.right("192.0.2.1", "bob@example.org") == "ok"
    tries.now = 12.1
    assert await tries.right("192.0.2.1") == "ok"


async def test_outsiders_lock_out_neither_another_network_nor_a_known_device() -> None:
    tries = Tries()
    for host in range(100):
        assert "failed" in await tries.wrong(f"192.0.2.{host}", times=5)
        assert await tries.right(f"198.51.100.{host}") == "ok"
        assert await tries.right(f"192.0.2.{host}", device="laptop") == "ok" or host % 10
        tries.now += 1


async def test_beyond_the_rate_of_an_account_each_network_has_one_try_a_minute() -> None:
    tries = Tries()
    for host in range(6):
        assert await tries.wrong(f"192.0.2.{host}", times=5) == ["failed"] * 5
    assert await tries.wrong("203.0.113.1", times=2) == ["failed", "60"]
    assert await tries.wrong("203.0.113.1", "bob@example.org", times=2) == ["failed"] * 2


async def test_right_passwords_cost_an_account_nothing_and_a_network_its_tries() -> None:
    tries = Tries()
    assert [await tries.right("192.0.2.1") for _ in range(21)] == ["ok"] * 20 + ["3"]
    assert await tries.right("192.0.2.2") == "ok"


async def test_a_known_device_has_a_budget_of_its_own() -> None:
    tries = Tries()
    assert await tries.wrong("192.0.2.1", device="stolen", times=11) == ["failed"] * 10 + ["6"]
    assert await tries.right("192.0.2.1", device="laptop") == "ok"
    assert await tries.right("192.0.2.1") == "ok"


@pytest.mark.parametrize(
    "error", [DatabaseUnavailableError("db"), RateLimitedError("busy", headers={"Retry-After": "1"})]
)
async def test_a_try_that_could_not_be_made_is_no_try(error: Exception) -> None:
    tries = Tries()
    for _ in range(30):
        assert await tries.outcome(error, "192.0.2.1") in {"failed", "1"}
    assert await tries.wrong("192.0.2.1", times=6) == ["failed"] * 5 + ["12"]


async def test_a_try_that_its_caller_cut_short_counts() -> None:
    tries = Tries()
    for _ in range(5):
        assert await tries.outcome(DeadlineExceededError("deadline"), "192.0.2.1") == "failed"
    assert await tries.right("192.0.2.1") == "12"


@pytest.mark.parametrize("is_shared", [False, True])
async def test_tries_at_once_count_before_they_end(
    monkeypatch: pytest.MonkeyPatch, *, is_shared: bool
) -> None:
    tries, refused, started = Tries(), 0, anyio.Event()
    if is_shared:
        monkeypatch.setattr(throttle, "hit_all", hit_all_slowly)

    async def guess() -> None:
        nonlocal refused
        try:
            async with tries.throttle.attempt("192.0.2.1", ADA):
                await started.wait()
        except RateLimitedError:
            refused += 1

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(guess)
        await anyio.wait_all_tasks_blocked()
        started.set()
    assert refused == 15
    # All five were right: they are counted no more.
    assert await tries.wrong("192.0.2.1", times=6) == ["failed"] * 5 + ["12"]


async def test_a_cancelled_try_counts_and_holds_nothing() -> None:
    tries = Tries()
    for _ in range(5):
        with anyio.CancelScope() as scope:
            async with tries.throttle.attempt("192.0.2.1", ADA):
                scope.cancel()
                await anyio.sleep_forever()
    assert await tries.right("192.0.2.1") == "12"
    tries.now = 60.1
    assert await tries.wrong("192.0.2.1", times=6) == ["failed"] * 5 + ["12"]


async def test_the_networks_of_one_site_are_one_at_an_account() -> None:
    tries = Tries()
    networks = [f"2001:db8:1:{number:x}::/64" for number in range(8)]
    told = [(await tries.wrong(network))[0] for network in networks]
    assert told == ["failed"] * 5 + ["12"] * 3
    assert await tries.right("2001:db8:2::/64") == "ok"


async def test_a_site_has_a_hundred_tries_a_minute_over_all_accounts() -> None:
    tries = Tries()
    for number in range(100):
        assert await tries.wrong(f"2001:db8:1:{number:x}::/64", f"{number}@example.org") == ["failed"]
    assert await tries.wrong("2001:db8:1:ffff::/64", "fresh@example.org") == ["1"]
    assert await tries.wrong("2001:db8:2::/64", "fresh@example.org") == ["failed"]
