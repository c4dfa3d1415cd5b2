"""Under attack a caller who behaves well is served as often with the limiter as without it.

The service runs as a process with the real hasher of passwords, once with shedding off and once
with it on. What counts is the share of that caller's requests that succeed, by what they are.

The comparison is evidence, and long; a short attack shows in CI that callers are served in it.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import anyio
import httpx2
import pytest

from postfacta_embedded import EmbeddedPostgres
from tests.app.live import NEW
from tests.app.running import ADMIN, command, sign_in, started
from tests.attack.hall import PASSWORD
from tests.kit.pg import fresh_database
from tests.servers.serving import serving

pytestmark = pytest.mark.usefixtures("programs")

ROOT: Final = Path(__file__).parents[2]
SECONDS: Final = 6.0
PAIRS: Final = 3
LEARNING: Final = 4.0  # Seconds of the attack before anything counts.
LESS: Final = (
    0.1  # A busy machine costs single requests, of which one more may be the only one of its kind.
)
OURS: Final = {"Sec-Fetch-Site": "same-origin", "X-Forwarded-For": "203.0.113.9"}
ATTACKER: Final = "127.0.0.2"  # A client that holds connections is another than the caller.
Attack = Callable[[str], Coroutine[Any, Any, None]]
Shares = dict[str, tuple[float, float]]
Ask = Callable[[httpx2.AsyncClient], Awaitable[bool]]


class Caller:
    """One who behaves well, and sends requests of some kinds.

    Each has its number of steps between two.
    """

    def __init__(self, web: httpx2.AsyncClient, **kinds: tuple[int, Ask]) -> None:
        self._web = web
        self._kinds = kinds
        self.asked: Counter[str] = Counter()
        self.served: Counter[str] = Counter()

    async def ask(self, kind: str, ask: Ask) -> None:
        self.asked[kind] += 1
        with suppress(httpx2.TransportError):
            self.served[kind] += await ask(self._web)

    async def go_on(self, seconds: float) -> None:
        """Send requests at a steady rate, whether or not those before are answered."""
        async with asyncio.TaskGroup() as tasks:
            for step in range(int(seconds / 0.2)):
                for kind, (each, ask) in self._kinds.items():
                    if step % each == 0:
                        tasks.create_task(self.ask(kind, ask))
                await asyncio.sleep(0.2)

    def shares(self) -> Shares:
        """Return the share that succeeded, and that of a single request."""
        return {kind: (self.served[kind] / asked, 1 / asked) for kind, asked in self.asked.items()}


async def enter(web: httpx2.AsyncClient) -> bool:
    """Sign in on the page; from then on the device is known."""
    fields = {"email": ADMIN.email, "password": ADMIN.password}
    return (await web.post("/signin", data=fields)).status_code == 303


async def at_app(web: httpx2.AsyncClient, token: str) -> Caller:
    """Make a caller of the app, on a known device."""
    signed = {"Authorization": f"Bearer {token}"}

    async def read(web: httpx2.AsyncClient) -> bool:
        return (await web.get("/api/v1/incidents", headers=signed)).status_code == 200

    async def write(web: httpx2.AsyncClient) -> bool:
        return (await web.post("/api/v1/incidents", json=NEW, headers=signed)).status_code == 201

    assert await enter(web)
    return Caller(web, reads=(1, read), writes=(3, write), sign_in=(6, enter))


def at_hall(web: httpx2.AsyncClient) -> Caller:
    """Make a caller of the service in `hall.py`, on a known device."""

    async def read(web: httpx2.AsyncClient) -> bool:
        return (await web.get("/read")).status_code == 200

    async def write(web: httpx2.AsyncClient) -> bool:
        return (await web.post("/write", content=b"x")).status_code == 200

    async def sign_in(web: httpx2.AsyncClient) -> bool:
        answer = await web.post("/sign-in", content=PASSWORD, headers={"Cookie": "device=1"})
        return answer.status_code == 200

    async def live(web: httpx2.AsyncClient) -> bool:
        async with web.stream("GET", "/live") as answer:
            async for piece in answer.aiter_bytes():
                return answer.status_code == 200 and piece.startswith(b"data:")
        return False

    return Caller(web, reads=(1, read), writes=(3, write), sign_in=(6, sign_in), live=(5, live))


@asynccontextmanager
async def attacked(attack: Attack, url: str) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attack, url)
        yield
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def attacking(url: str) -> AsyncGenerator[httpx2.AsyncClient]:
    """Open a client of the attacker's address, with as many connections as it wants."""
    transport = httpx2.AsyncHTTPTransport(
        local_address=ATTACKER, limits=httpx2.Limits(max_connections=None)
    )
    async with httpx2.AsyncClient(base_url=url, timeout=20.0, transport=transport) as web:
        yield web


def trying(send: Callable[[httpx2.AsyncClient, int], Awaitable[object]]) -> Attack:
    """Send a request every 3 s from each of 40 addresses, within their rates; each gets its number."""

    async def attempt(web: httpx2.AsyncClient, number: int) -> None:
        with suppress(httpx2.TransportError):
            await send(web, number)

    async def attack(url: str) -> None:
        async with attacking(url) as web, asyncio.TaskGroup() as tasks:
            for number in range(10_000):
                tasks.create_task(attempt(web, number))
                await asyncio.sleep(3.0 / 40)

    return attack


async def guess(web: httpx2.AsyncClient, number: int) -> None:
    """Sign in wrongly, at an account of its own."""
    body = {"email": f"{number}@tests.example", "password": "wrong horse"}
    headers = {"X-Forwarded-For": f"198.51.100.{number % 40}"}
    await web.post("/login", json=body, headers=headers)


async def register(web: httpx2.AsyncClient, number: int) -> None:
    """Make an account."""
    body = {"email": f"{number}@tests.example", "password": PASSWORD}
    headers = {"X-Forwarded-For": f"198.51.100.{number % 40}"}
    await web.post("/register", json=body, headers=headers)


def holding(head: bytes, number: int, *, reads: int | None = None) -> Attack:
    """Hold this many connections that each send something, and come again once they are closed.

    They read all that comes; or every second as many bytes as `reads` says, which may be none.
    """

    async def attack(url: str) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(number):
                tasks.create_task(hold(httpx2.URL(url), head, reads))

    return attack


async def hold(target: httpx2.URL, head: bytes, reads: int | None) -> None:
    while True:
        reader, writer = await asyncio.open_connection(
            target.host, target.port, local_addr=(ATTACKER, 0), limit=4096
        )
        try:
            writer.write(head)
            while await take(reader, reads):
                pass
            await asyncio.sleep(0.2)
        except ConnectionError:
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def take(reader: asyncio.StreamReader, reads: int | None) -> bool:
    """Read; return whether the connection is still open, as far as it looks."""
    if reads is not None:
        await asyncio.sleep(1.0)
    return reads == 0 or bool(await reader.read(reads or 65_536))


def together(*attacks: Attack) -> Attack:
    async def attack(url: str) -> None:
        async with asyncio.TaskGroup() as tasks:
            for each in attacks:
                tasks.create_task(each(url))

    return attack


def reading_slowly(path: bytes) -> Attack:
    """Ask for more than any buffer holds; half of the readers take 1 kB a second, half nothing."""
    asks = get(path) * 40
    return together(holding(asks, 30, reads=1024), holding(asks, 30, reads=0))


async def guess_at_hall(web: httpx2.AsyncClient, _: int) -> None:
    """Send a wrong password."""
    await web.post("/sign-in", content=b"wrong horse")


async def register_at_hall(web: httpx2.AsyncClient, _: int) -> None:
    """Have a password hashed."""
    await web.post("/register", content=b"another horse")


def get(path: bytes, more: bytes = b"") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n" + more + b"\r\n"


_BODY: Final = b"POST /login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n{"
_UPGRADE: Final = (
    b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
AT_APP: Final[dict[str, Attack]] = {
    "sign-ins": trying(guess),
    "registrations": trying(register),
    "slow bodies": holding(_BODY, 200),
    "slow readers": reading_slowly(b"/openapi.json"),
    "handshakes": holding(get(b"/lobby", _UPGRADE), 60),
}
AT_HALL: Final[dict[str, Attack]] = {
    "sign-ins": trying(guess_at_hall),
    "registrations": trying(register_at_hall),
    "slow bodies": holding(_BODY.replace(b"/login", b"/write"), 200),
    "slow readers": reading_slowly(b"/large"),
    "handshakes": holding(get(b"/lobby", _UPGRADE), 60),
    "returning sleepers": holding(get(b"/sleep", b"connection: close\r\n"), 40),
    "streams": holding(get(b"/live"), 60),
}


@pytest.fixture(scope="module")
def dsn(postgres_server: EmbeddedPostgres, app_template: str) -> Generator[str]:
    with fresh_database(postgres_server, app_template) as address:
        who = ("--role", "admin", "--email", ADMIN.email, "--name", "Admin", "--password-stdin")
        settings = {"POSTFACTA_DATABASE_DSN": address}
        command("user", "add", *who, environment=settings, given=f"{ADMIN.password}\n")
        yield address


def shares_under(attack: Attack, dsn: str, shedding: str) -> Shares:
    """Return the shares of a caller's requests that succeed while a service is attacked."""
    settings = {
        "POSTFACTA_DATABASE_DSN": dsn,
        "POSTFACTA_READY_REQUIRES_DB": "false",
        "POSTFACTA_TRUSTED_PROXIES": "127.0.0.0/8",
        "POSTFACTA_SHEDDING": shedding,
        "POSTFACTA_REGISTER_OPEN": "true",
        "LOG_LEVEL": "ERROR",
    }
    with started(environment=settings) as (_, url), httpx2.Client(base_url=url) as client:
        token = sign_in(client, ADMIN)

        async def make(web: httpx2.AsyncClient) -> Caller:
            return await at_app(web, token)

        return asyncio.run(play(url, attack, make))


async def play(
    url: str,
    attack: Attack,
    make: Callable[[httpx2.AsyncClient], Awaitable[Caller]],
    *,
    learning: float = LEARNING,
    seconds: float = SECONDS,
) -> Shares:
    async with httpx2.AsyncClient(base_url=url, headers=OURS, timeout=20.0) as web:
        caller = await make(web)
        async with attacked(attack, url):
            await asyncio.sleep(learning)
            await caller.go_on(seconds)
        return caller.shares()


def compare(measure: Callable[[str], Shares]) -> None:
    """Compare the shares with shedding on and off, up to three times.

    What else the machine does between the two may make one of them worse; a defect makes each pair
    so.
    """
    pairs: list[tuple[Shares, Shares]] = []
    while len(pairs) < PAIRS:
        off = measure("off")
        on = measure("enforce")
        pairs.append((off, on))
        assert all(share > 0 for share, _ in off.values())  # else it proves nothing
        if all(on[kind][0] >= share - LESS - single for kind, (share, single) in off.items()):
            return
    pytest.fail(f"off and on, as shares that succeeded and of one request: {pairs}")


@pytest.mark.long
@pytest.mark.parametrize("attack", AT_APP)
def test_callers_of_the_app_are_served_as_with_shedding_off(attack: str, dsn: str) -> None:
    compare(lambda shedding: shares_under(AT_APP[attack], dsn, shedding))


@contextmanager
def hall(folder: Path, shedding: str) -> Generator[str]:
    """Run the service in `hall.py`; give its address."""
    command = "uvicorn tests.attack.hall:app --port {port} --log-level error --no-access-log"
    environment = {**os.environ, "POSTFACTA_SHEDDING": shedding, "PYTHONPATH": str(ROOT)}
    with serving(command, folder / "log", environment=environment) as (port, _):
        yield f"http://127.0.0.1:{port}"


async def make_at_hall(web: httpx2.AsyncClient) -> Caller:
    return at_hall(web)


def test_callers_are_served_during_a_short_attack(tmp_path: Path) -> None:
    with hall(tmp_path, "enforce") as url:
        playing = play(url, AT_HALL["sign-ins"], make_at_hall, learning=0.5, seconds=1.5)
        shares = asyncio.run(playing)
    assert {kind for kind, (share, _) in shares.items() if share > 0} == shares.keys()


@pytest.mark.long
@pytest.mark.parametrize("attack", AT_HALL)
def test_callers_of_a_hardened_service_are_served_as_with_shedding_off(
    attack: str, tmp_path: Path
) -> None:
    def measure(shedding: str) -> Shares:
        with hall(tmp_path, shedding) as url:
            return asyncio.run(play(url, AT_HALL[attack], make_at_hall))

    compare(measure)
