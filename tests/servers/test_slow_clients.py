"""A slow client is cut in time on every server, and no other client notices.

`pytest tests/servers/test_slow_clients.py -m "" -s` floods every server, and writes
docs/reference/slow-clients.md; without `-m ""`, only uvicorn is flooded.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from postfacta_lab.engine.client import (
    Connection,
    Outcome,
    PartialRequest,
    Response,
    ask,
    encode,
    slow_clients,
)
from tests.servers.serving import serving
from tests.servers.slow_app import LIMITS

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PATIENCE = 30.0  # for a step that is not slow on purpose; the machine may be busy
CLOSE = {"Connection": "close"}
TRICKLE = encode("POST", "/read", {"Content-Length": "1000"}), b"x" * 1000

# With its own backlog of 100, a burst of 620 connections loses some.
HYPERCORN = "hypercorn --bind 127.0.0.1:{port} --workers 0 --keep-alive 5 --backlog 2048"
SERVERS = {
    "uvicorn, httptools": "uvicorn --loop asyncio --http httptools --port {port}",
    "uvicorn, h11": "uvicorn --loop asyncio --http h11 --port {port}",
    "uvicorn, `BoundedHttp`": "uvicorn --loop asyncio --http slow_app:Http --port {port}",
    "granian": "granian --interface asgi --loop asyncio --http 1 --http1-header-read-timeout 5000 --port {port}",
    "hypercorn, asyncio": f"{HYPERCORN} --worker-class asyncio",
    "hypercorn, trio": f"{HYPERCORN} --worker-class trio",
    "gunicorn, uvicorn-worker": "gunicorn --bind 127.0.0.1:{port} --worker-class uvicorn_worker.UvicornWorker",
    "gunicorn, `BoundedHttp`": "gunicorn --bind 127.0.0.1:{port} --worker-class slow_worker.BoundedWorker",
    "gunicorn, asgi": "gunicorn --bind 127.0.0.1:{port} --worker-class asgi",
}
FLOODED = [
    pytest.param(name, marks=() if name == "uvicorn, httptools" else pytest.mark.long)
    for name in SERVERS
]
# Those that give up on a client that does not finish its headers; elsewhere a proxy must.
TIME_HEADERS = {
    *("granian", "hypercorn, asyncio", "hypercorn, trio"),
    *("gunicorn, `BoundedHttp`", "uvicorn, `BoundedHttp`"),
}
# Its loop listens with asyncio's backlog of 100, whatever `--backlog` says: of a burst of 620
# connections the kernel resets some before it sees them.
LOSES_A_BURST = {"gunicorn, asgi"}
# Its write to the socket is shielded from cancellation, so nothing can free the handler.
STUCK_ON_WRITE = {"hypercorn, trio"}


def run(server: str, log: Path) -> AbstractContextManager[tuple[int, object]]:
    return serving(f"{SERVERS[server]} slow_app:app", log)


@pytest.fixture(scope="module", params=SERVERS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[int]:
    """Run each server once for the tests that leave nothing behind."""
    with run(request.param, tmp_path_factory.mktemp("served") / "log") as (port, _):
        yield port


async def sent(port: int, first: bytes, *rest: bytes, every: float = 0.0) -> tuple[Response, bool]:
    """Send a request in pieces; return the answer, and whether the server closed after it."""
    connection = await Connection.open(port, patience=PATIENCE)
    await connection.send(first)
    answer = await connection.drip(rest, every=every, patience=20)
    closed = (await connection.answer(patience=5)).broken is Outcome.STALE_EOF
    connection.close()
    return answer, closed


def chunked(size: int) -> Iterable[bytes]:
    """Make a request whose body says nothing of its length beforehand."""
    yield encode("POST", "/read", {**CLOSE, "Transfer-Encoding": "chunked"})
    for start in range(0, size, 10_000):
        piece = b"x" * min(10_000, size - start)
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def test_a_body_of_unknown_length_is_counted_and_refused_with_a_whole_answer(served: int) -> None:
    answer, closed = asyncio.run(sent(served, *chunked(LIMITS.max_body_bytes * 3)))
    assert (answer.status, closed) == (413, True)
    assert b"too-large" in answer.body


def test_a_body_up_to_the_limit_is_taken(served: int) -> None:
    answer, _ = asyncio.run(sent(served, *chunked(LIMITS.max_body_bytes)))
    assert answer.status == 200
    assert str(LIMITS.max_body_bytes).encode() in answer.body


def test_a_body_of_one_byte_a_second_gets_its_408_in_time_and_is_cut(served: int) -> None:
    head, body = TRICKLE
    answer, closed = asyncio.run(sent(served, head, *[b"x"] * len(body), every=1))
    assert (answer.status, closed) == (408, True)
    assert b"request-timeout" in answer.body
    # It has the grace, and a moment for the machine.
    assert LIMITS.body_grace - 0.1 <= answer.seconds < LIMITS.body_grace + 5


@dataclass(slots=True)
class Flood:
    """What came of a flood.

    Attributes:
        headers: What ended each header trickler; a time-out if the server did not.
        early_bodies: What ended each body trickler that the server read before the crowd came.
        bodies: What ended each body trickler of the crowd.
        others: The answers to a well-behaved client.
        streams_before: Handlers that streamed to a client that does not read.
        streams_after: Those that still did when all had had time to be cut.
    """

    headers: list[Response]
    early_bodies: list[Response]
    bodies: list[Response]
    others: list[Response]
    streams_before: int
    streams_after: int


async def count(port: int, name: str) -> int:
    """Ask how many streams go on, or how many bodies the server began to read."""
    answer = await ask(port, encode("GET", "/state", CLOSE), patience=PATIENCE)
    return int(answer.json[name])


async def count_until(port: int, name: str, wanted: int, seconds: float) -> int:
    """Wait until there are that many; return how many there are in the end."""
    until = time.monotonic() + seconds
    while (found := await count(port, name)) != wanted and time.monotonic() < until:
        await asyncio.sleep(0.1)
    return found


async def behave(port: int, over: asyncio.Event) -> list[Response]:
    """Send 20 ordinary requests a second, each of which should succeed."""
    answers: list[Response] = []
    while not over.is_set():
        whole = encode("GET", "/quick", CLOSE) if len(answers) % 2 else b"".join(chunked(20_000))
        answers.append(await ask(port, whole, patience=PATIENCE))
        await asyncio.sleep(0.05)
    return answers


async def flood_with(port: int, seconds: float = 9.0) -> Flood:
    """Attack a server in three ways at once, while a well-behaved client goes on."""

    async def trickle(first: bytes, rest: bytes, clients: int) -> list[Response]:
        return await slow_clients(
            lambda: Connection.open(port, patience=PATIENCE),
            *(first, rest),
            clients=clients,
            every=1,
            patience=seconds,
        )

    # These come first: in the crowd, the limiter would have no place for some of them.
    silent = [
        await PartialRequest.begin(port, encode("GET", "/stream"), patience=PATIENCE)
        for _ in range(20)
    ]
    before = await count_until(port, "streams", len(silent), 3)
    over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        early_bodies = tasks.create_task(trickle(*TRICKLE, 8))
        await count_until(port, "bodies", 8, 3)
        headers = tasks.create_task(
            trickle(encode("GET", "/quick")[:-2] + b"x-slow: ", b"1" * 1000, 500)
        )
        bodies = tasks.create_task(trickle(*TRICKLE, 100))
        others = tasks.create_task(behave(port, over))
        after = await count_until(port, "streams", 0, seconds - 1)
        await asyncio.wait([headers, bodies])
        over.set()
    for request in silent:
        await request.finish(0)
    return Flood(
        headers.result(),
        early_bodies.result(),
        bodies.result(),
        others.result(),
        before,
        after,
    )


@pytest.fixture(scope="module")
def results() -> Generator[dict[str, Flood]]:
    """Collect the floods, and write them down if all servers were flooded."""
    found: dict[str, Flood] = {}
    yield found
    if set(found) == set(SERVERS):
        page = ROOT / "docs/reference/slow-clients.md"
        before, mark, _ = page.read_text().partition("<!-- measured -->\n")
        page.write_text(before + mark + table(found))


@pytest.mark.parametrize("server", FLOODED)
def test_a_flood_of_slow_clients_is_not_noticed_by_others(
    server: str, results: dict[str, Flood], tmp_path: Path
) -> None:
    with run(server, tmp_path / "log") as (port, _):
        flood = results[server] = asyncio.run(flood_with(port))
    # While six hundred come at the same moment, one or another of the others may be told to come
    # back.
    statuses = Counter(answer.status for answer in flood.others)
    assert statuses.keys() <= {200, 503}
    assert statuses[200] >= 0.95 * statuses.total() > 20
    assert [answer.status for answer in flood.early_bodies] == [408] * 8
    # Of the crowd, which comes at one moment, those for which the limiter has no place are refused
    # at once. How many is its affair: a busy machine has fewer places.
    assert {answer.status for answer in flood.bodies} <= {408, 503}
    assert len(flood.bodies) == 100
    assert flood.streams_before == 20
    assert flood.streams_after == (20 if server in STUCK_ON_WRITE else 0)
    closed = [answer for answer in ended(flood.headers) if not was_lost(server, answer)]
    assert len(closed) == (500 if server in TIME_HEADERS else 0)


def ended(answers: list[Response]) -> list[Response]:
    """Return those that did not go on until the client had enough."""
    return [answer for answer in answers if answer.outcome is not Outcome.TIMEOUT]


def was_lost(server: str, answer: Response) -> bool:
    """Return whether the kernel may have reset it before the server saw it."""
    return server in LOSES_A_BURST and answer.outcome is Outcome.RESET and answer.seconds < 1.0


def table(found: dict[str, Flood]) -> str:
    """Write what each server did as Markdown."""
    titles = (
        "server",
        "500 header tricklers",
        "body tricklers: 408 after",
        "20 non-readers: handlers freed",
        "other clients: succeeded",
        "slowest",
    )
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for server, flood in found.items():
        over = ended(flood.headers)
        closed = [answer.seconds for answer in over if not was_lost(server, answer)]
        headers = (
            f"{len(closed)} closed, last after {max(closed):.1f} s" if closed else "none closed"
        )
        if len(over) > len(closed):
            headers += f", {len(over) - len(closed)} of the burst reset"
        bodies_of_all = flood.early_bodies + flood.bodies
        cut = [answer.seconds for answer in bodies_of_all if answer.status == 408]
        bodies = f"{len(cut)}: {min(cut):.1f} to {max(cut):.1f} s" if cut else "0"
        freed = f"{flood.streams_before - flood.streams_after} of {flood.streams_before}"
        good = sum(answer.status == 200 for answer in flood.others)
        slowest = max(answer.seconds for answer in flood.others)
        lines.append(
            f"| {server} | {headers} | {bodies} | {freed} | {good} of {len(flood.others)} | {slowest:.2f} s |"
        )
    return "\n".join(lines) + "\n"
