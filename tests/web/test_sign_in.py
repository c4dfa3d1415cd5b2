"""How often a password may be tried: by account, by address, and what counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from limits.aio.storage import MemoryStorage

from postfacta_adapters.limits import SharedStore
from postfacta_core.asgi import Receive, Scope, Send, harden
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.errors import (
    DatabaseUnavailableError,
    DeadlineExceededError,
    RateLimitExceededError,
)
from postfacta_core.limits._rates import Decision
from postfacta_core.limits.rate import Charge, hit_all
from postfacta_core.testing import ManualClock, call_asgi
from postfacta_web import sign_in
from postfacta_web.sign_in import SignInThrottle, client_of

ADA = "ada@example.org"


async def hit_all_slowly(charges: Sequence[Charge], *, spend: bool = True) -> list[Decision]:
    """Ask as a store on another machine is asked: others come in between."""
    await checkpoint()
    return await hit_all(charges, spend=spend)


class WrongPasswordError(Exception):
    """What a service raises for a wrong password."""


class BusyError(Exception):
    """What a service raises when it verifies as many passwords as it can."""


class Tries:
    """A throttle with a clock that a test sets."""

    def __init__(self, **options: Any) -> None:
        self.now = 0.0
        self.throttle = SignInThrottle(
            uncounted=BusyError, observer=None, clock=lambda: self.now, **options
        )

    async def outcome(
        self, error: Exception | None, address: str, account: str = ADA, **how: str
    ) -> str:
        with suppress(
            WrongPasswordError, BusyError, DatabaseUnavailableError, DeadlineExceededError
        ):
            try:
                async with self.throttle.attempt(address, account, **how) as accept:
                    if error is None:
                        accept()
                        return "ok"
                    raise error
            except RateLimitExceededError as refusal:
                return str(math.ceil(refusal.retry_after or 0))
        return "failed"

    async def wrong(
        self, address: str, account: str = ADA, *, times: int = 1, **how: str
    ) -> list[str]:
        return [
            await self.outcome(WrongPasswordError(), address, account, **how) for _ in range(times)
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


@pytest.mark.parametrize("error", [DatabaseUnavailableError("db"), BusyError()])
async def test_a_try_that_could_not_be_made_is_no_try(error: Exception) -> None:
    tries = Tries()
    for _ in range(30):
        assert await tries.outcome(error, "192.0.2.1") == "failed"
    assert await tries.wrong("192.0.2.1", times=6) == ["failed"] * 5 + ["12"]


@pytest.mark.parametrize("is_shared", [False, True])
async def test_tries_at_once_count_before_they_end(
    monkeypatch: pytest.MonkeyPatch, *, is_shared: bool
) -> None:
    tries, refused, started = Tries(), 0, anyio.Event()
    if is_shared:
        monkeypatch.setattr(sign_in, "hit_all", hit_all_slowly)

    async def guess() -> None:
        nonlocal refused
        try:
            async with tries.throttle.attempt("192.0.2.1", ADA) as accept:
                await started.wait()
                accept()
        except RateLimitExceededError:
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
        assert await tries.wrong(f"2001:db8:1:{number:x}::/64", f"{number}@example.org") == [
            "failed"
        ]
    assert await tries.wrong("2001:db8:1:ffff::/64", "fresh@example.org") == ["1"]
    assert await tries.wrong("2001:db8:2::/64", "fresh@example.org") == ["failed"]


async def test_a_try_that_was_not_accepted_counts_as_a_wrong_one() -> None:
    tries = Tries()
    for _ in range(5):
        async with tries.throttle.attempt("192.0.2.1", ADA):
            """Forget to accept it."""
    assert await tries.right("192.0.2.1") == "12"


async def test_a_try_that_fails_after_it_was_accepted_counts_as_a_wrong_one() -> None:
    tries = Tries()
    for _ in range(5):
        with suppress(WrongPasswordError):
            async with tries.throttle.attempt("192.0.2.1", ADA) as accept:
                accept()
                raise WrongPasswordError
    assert await tries.right("192.0.2.1") == "12"


async def test_tries_at_once_from_many_networks_count_at_their_account(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sign_in, "hit_all", hit_all_slowly)
    tries, started, admitted = Tries(), anyio.Event(), 0

    async def guess(network: int) -> None:
        nonlocal admitted
        with suppress(RateLimitExceededError, WrongPasswordError):
            async with tries.throttle.attempt(f"192.0.2.{network}", ADA):
                admitted += 1
                await started.wait()
                raise WrongPasswordError

    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(guess, number % 20)
        await anyio.wait_all_tasks_blocked()
        started.set()
    # Without a bound over all of them, they had five each. Beyond it a network may have one at a
    # time.
    assert 30 <= admitted <= 50
    assert await tries.wrong("203.0.113.1", times=2) == ["failed", "60"]


@pytest.mark.parametrize(
    ("address", "again"),
    [
        ("2001:db8::1", "2001:db8::2"),
        ("2001:db8::1", "2001:db8::/64"),
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("", ""),
    ],
)
async def test_addresses_of_one_network_are_one(address: str, again: str) -> None:
    tries = Tries(network="1/hour")
    assert await tries.right(address) == "ok"
    assert await tries.right(again) == "3600"


@pytest.mark.parametrize(
    ("peer", "named"),
    [
        (("192.0.2.1", 1), "192.0.2.1"),
        (("2001:db8::1:2", 1), "2001:db8::/64"),
        (("x", 1), "x"),
        (None, ""),
    ],
)
def test_a_client_is_the_peer_unless_the_core_names_another(
    peer: tuple[str, int] | None, named: str
) -> None:
    scope = {"type": "http", "client": peer, "headers": [(b"x-forwarded-for", b"203.0.113.9")]}
    assert client_of(scope) == named
    context = RequestContext("0123456789", 0.0)
    token = bind_request(context)
    try:
        assert client_of(scope) == named
        context.client = "198.51.100.1"
        assert client_of(scope) == "198.51.100.1"
    finally:
        release_request(token)


async def test_each_rate_is_a_parameter() -> None:
    v6 = "2001:db8:0:{:x}::1"
    for option, wrong, refused_next in (
        ("network", [("192.0.2.1", "a")], ("192.0.2.1", "b")),
        ("site", [(v6.format(1), "a")], (v6.format(2), "b")),
        ("account_here", [("192.0.2.1", "a")], ("192.0.2.1", "a")),
    ):
        tries = Tries(**{option: "1/hour"})
        assert [await tries.wrong(*one) for one in wrong] == [["failed"]]
        assert await tries.right(*refused_next) == "3600", option
    tries = Tries(account="1/hour", account_beyond="2/hour")
    assert await tries.wrong("192.0.2.1") == ["failed"]
    assert await tries.wrong("192.0.2.2", times=3) == ["failed", "failed", "1800"]
    tries = Tries(device="1/hour")
    assert await tries.wrong("192.0.2.1", device="laptop", times=2) == ["failed", "3600"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_processes_that_share_a_store_count_together() -> None:
    storage = MemoryStorage()
    stores = [SharedStore(storage, timeout=5.0) for _ in range(2)]
    here, there = (Tries(store=store) for store in stores)
    assert await here.wrong("192.0.2.1", times=5) == ["failed"] * 5
    assert await there.right("192.0.2.1") != "ok"
    assert await there.right("192.0.2.2") == "ok"
    assert all(store.is_up for store in stores)
    # The account is kept, but not its address.
    kept = str(vars(storage))
    assert "sign-in-account_here" in kept
    assert ADA not in kept


async def test_without_an_account_the_network_alone_counts() -> None:
    tries = Tries()
    assert await tries.wrong("192.0.2.1", "", times=21) == ["failed"] * 20 + ["3"]


async def test_an_account_may_be_any_text() -> None:
    tries = Tries()
    assert await tries.wrong("192.0.2.1", "\ud800", times=6) == ["failed"] * 5 + ["12"]


async def test_a_refusal_is_answered_by_429_with_retry_after() -> None:
    throttle = SignInThrottle(network="1/hour", clock=ManualClock())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        async with throttle.attempt("192.0.2.1"):
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    hardened = harden(app, service="shop")
    answers = [await call_asgi(hardened, "POST", "/sign-in") for _ in range(2)]
    assert [answer.status for answer in answers] == [204, 429]
    assert (answers[1].json()["code"], answers[1].header("retry-after")) == ("rate-limited", "3600")
    page = (await call_asgi(hardened, "GET", "/metrics")).body.decode()
    for decision in ("allowed", "limited"):
        labels = f'decision="{decision}",mode="enforce",policy="sign-in"'
        assert f"postfacta_ratelimit_decisions_total{{{labels}}} 1.0" in page


def test_a_name_that_is_too_long_for_its_budgets_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^SignInThrottle\.name must be a name of at most 48 characters, not "
    ):
        SignInThrottle("x" * 49)
    assert SignInThrottle("x" * 48, observer=None).name == "x" * 48
