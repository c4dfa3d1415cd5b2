"""Under attack a caller who behaves well is served as often with the limiter as without it.

The service runs as a process with the real hasher of passwords, once with shedding off and once with it on. What counts
is the share of that caller's requests that succeed, by what they are.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import anyio
import httpx2
import pytest

from postfacta_embedded import EmbeddedPostgres
from tests.app.live import NEW
from tests.app.running import ADMIN, command, sign_in, started
from tests.kit.every import every
from tests.kit.pg import fresh_database

pytestmark = pytest.mark.usefixtures("programs")

SECONDS: Final = 8.0
LEARNING: Final = 5.0  # Seconds of the attack before anything counts.
LESS: Final = 0.1  # A busy machine costs single requests.
OURS: Final = {"Sec-Fetch-Site": "same-origin", "X-Forwarded-For": "203.0.113.9"}
Attack = Callable[[str], Coroutine[Any, Any, None]]
Ask = Callable[[], Awaitable[bool]]


class Caller:
    """One who behaves well: reads, writes, and signs in on a known device."""

    def __init__(self, web: httpx2.AsyncClient, token: str) -> None:
        self._web = web
        self._token = {"Authorization": f"Bearer {token}"}
        self.asked: Counter[str] = Counter()
        self.served: Counter[str] = Counter()

    async def read(self) -> bool:
        return (await self._web.get("/api/v1/incidents", headers=self._token)).status_code == 200

    async def write(self) -> bool:
        answer = await self._web.post("/api/v1/incidents", json=NEW, headers=self._token)
        return answer.status_code == 201

    async def enter(self) -> bool:
        fields = {"email": ADMIN.email, "password": ADMIN.password}
        return (await self._web.post("/signin", data=fields)).status_code == 303

    async def ask(self, kind: str, ask: Ask) -> None:
        self.asked[kind] += 1
        with suppress(httpx2.TransportError):
            self.served[kind] += await ask()

    async def go_on(self, seconds: float) -> None:
        """Send requests at a steady rate, whether or not those before are answered."""
        kinds: dict[str, tuple[int, Ask]] = {
            "read": (1, self.read), "write": (3, self.write), "sign-in": (15, self.enter),
        }  # fmt: skip
        async with asyncio.TaskGroup() as tasks:
            for step in range(int(seconds / 0.2)):
                for kind, (each, ask) in kinds.items():
                    if step % each == 0:
                        tasks.create_task(self.ask(kind, ask))
                await asyncio.sleep(0.2)

    def shares(self) -> dict[str, float]:
        return {kind: self.served[kind] / asked for kind, asked in self.asked.items()}


@asynccontextmanager
async def attacked(attack: Attack, url: str) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attack, url)
        yield
        tasks.cancel_scope.cancel()


async def guess(url: str) -> None:
    """Send one wrong sign-in every 3 s from each of 40 addresses, within their rates; all at accounts of their own."""
    limits = httpx2.Limits(max_connections=None)
    async with (
        httpx2.AsyncClient(base_url=url, timeout=20.0, limits=limits) as web,
        asyncio.TaskGroup() as tasks,
    ):
        for number in range(10_000):
            address, account = f"198.51.100.{number % 40}", f"{number}@tests.example"
            tasks.create_task(_try(web, address, account))
            await asyncio.sleep(3.0 / 40)


async def _try(web: httpx2.AsyncClient, address: str, account: str) -> None:
    body = {"email": account, "password": "wrong horse"}
    with suppress(httpx2.TransportError):
        await web.post("/login", json=body, headers={"X-Forwarded-For": address})


async def drip(url: str) -> None:
    """Hold 200 connections whose bodies do not come."""
    target = httpx2.URL(url)
    head = (
        b"POST /login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n{"
    )

    async def hold() -> None:
        while True:
            reader, writer = await asyncio.open_connection(target.host, target.port)
            try:
                writer.write(head)
                await reader.read()
            except ConnectionError:
                pass
            finally:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(200):
            tasks.create_task(hold())


ATTACKS: Final[dict[str, Attack]] = {"sign-ins": guess, "slow bodies": drip}


@pytest.fixture(scope="module")
def dsn(postgres_server: EmbeddedPostgres, app_template: str) -> Generator[str]:
    with fresh_database(postgres_server, app_template) as address:
        who = ("--role", "admin", "--email", ADMIN.email, "--name", "Admin", "--password-stdin")
        settings = {"POSTFACTA_DATABASE_DSN": address}
        command("user", "add", *who, environment=settings, given=f"{ADMIN.password}\n")
        yield address


def shares_under(attack: Attack, dsn: str, shedding: str) -> dict[str, float]:
    """Return the shares of a caller's requests that succeed while a service is attacked."""
    settings = {
        "POSTFACTA_DATABASE_DSN": dsn,
        "POSTFACTA_READY_REQUIRES_DB": "false",
        "POSTFACTA_TRUSTED_PROXIES": "127.0.0.0/8",
        "POSTFACTA_SHEDDING": shedding,
        "LOG_LEVEL": "ERROR",
    }
    with started(environment=settings) as (_, url), httpx2.Client(base_url=url) as client:
        token = sign_in(client, ADMIN)

        async def play() -> dict[str, float]:
            async with httpx2.AsyncClient(base_url=url, headers=OURS, timeout=20.0) as web:
                caller = Caller(web, token)
                assert await caller.enter()  # From now on its device is known.
                async with attacked(attack, url):
                    await asyncio.sleep(LEARNING)
                    await caller.go_on(SECONDS)
                return caller.shares()

        return asyncio.run(play())


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_caller_is_served_as_often_with_shedding_as_without(attack: str, dsn: str) -> None:
    off, on = (shares_under(ATTACKS[attack], dsn, mode) for mode in ("off", "enforce"))
    with every() as case:
        for kind, share in off.items():
            with case(kind, "off", share, "on", on[kind]):
                assert share > 0  # else it proves nothing
                assert on[kind] >= share - LESS
