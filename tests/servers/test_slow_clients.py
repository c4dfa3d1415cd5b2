"""A slow client is cut in time on every server, and no other client notices.

`pytest tests/servers/test_slow_clients.py -m "" -s` floods every server, and writes docs/reference/slow-clients.md;
without `-m ""`, only uvicorn is flooded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.servers import slow_clients
from tests.servers.serving import serving
from tests.servers.slow_app import LIMITS
from tests.servers.slow_clients import Flood

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BIND = slow_clients.BIND

# With its own backlog of 100, a burst of 620 connections loses some.
HYPERCORN = "hypercorn --bind 127.0.0.1:{port} --workers 0 --keep-alive 5 --backlog 2048"
SERVERS = {
    "uvicorn, httptools": "uvicorn --loop asyncio --http httptools --port {port}",
    "uvicorn, h11": "uvicorn --loop asyncio --http h11 --port {port}",
    "granian": "granian --interface asgi --loop asyncio --http 1 --http1-header-read-timeout 5000 --port {port}",
    "hypercorn, asyncio": f"{HYPERCORN} --worker-class asyncio",
    "hypercorn, trio": f"{HYPERCORN} --worker-class trio",
    "gunicorn, uvicorn-worker": "gunicorn --bind 127.0.0.1:{port} --worker-class uvicorn_worker.UvicornWorker",
    "gunicorn, asgi": "gunicorn --bind 127.0.0.1:{port} --worker-class asgi",
}
FLOODED = [
    pytest.param(name, marks=() if name == "uvicorn, httptools" else pytest.mark.long) for name in SERVERS
]
# Those that give up on a client that does not finish its headers; elsewhere a proxy must.
TIME_HEADERS = {"granian", "hypercorn, asyncio", "hypercorn, trio"}
# Its write to the socket is shielded from cancellation, so nothing can free the handler.
STUCK_ON_WRITE = {"hypercorn, trio"}


def run(server: str, log: Path) -> AbstractContextManager[tuple[int, object]]:
    return serving(f"{SERVERS[server]} slow_app:app", log)


@pytest.fixture(scope="module", params=SERVERS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[int]:
    """Run each server once for the tests that leave nothing behind."""
    with run(request.param, tmp_path_factory.mktemp("served") / "log") as (port, _):
        yield port


def test_a_body_of_unknown_length_is_counted_and_refused_with_a_whole_answer(served: int) -> None:
    head, chunks = slow_clients.chunked(LIMITS.max_body_bytes * 3)
    answer = asyncio.run(slow_clients.request(served, head, *chunks, most=20))
    assert (answer.status, answer.closed) == (413, True)
    assert b"too-large" in answer.body


def test_a_body_up_to_the_limit_is_taken(served: int) -> None:
    head, chunks = slow_clients.chunked(LIMITS.max_body_bytes)
    head = head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
    answer = asyncio.run(slow_clients.request(served, head, *chunks))
    assert answer.status == 200
    assert str(LIMITS.max_body_bytes).encode() in answer.body


def test_a_body_of_one_byte_a_second_gets_its_408_in_time_and_is_cut(served: int) -> None:
    answer = asyncio.run(slow_clients.trickle_body(served, most=20))
    assert (answer.status, answer.closed) == (408, True)
    assert b"request-timeout" in answer.body
    # It has the grace, and a moment for the machine.
    assert LIMITS.body_grace - 0.1 <= answer.seconds < LIMITS.body_grace + 5


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
        flood = results[server] = asyncio.run(slow_clients.flood_with(port))
    # While six hundred come at the same moment, one or another of the others may be told to come back.
    assert flood.well_behaved.keys() <= {200, 503}
    assert flood.well_behaved[200] >= 0.95 * flood.well_behaved.total() > 20
    # Those that the limiter has no place for, as all come at the same moment, are refused before that.
    cut = [answer for answer in flood.bodies if answer.status != 503]
    assert {(answer.status, answer.closed) for answer in cut} == {(408, True)}
    assert len(cut) >= 16
    assert len(flood.bodies) == 100
    assert flood.streams_before == 20
    assert flood.streams_after == (20 if server in STUCK_ON_WRITE else 0)
    assert len(flood.headers_closed) == (500 if server in TIME_HEADERS else 0)


def table(found: dict[str, Flood]) -> str:
    """Write what each server did as Markdown."""
    titles = (
        "server",
        "500 header tricklers",
        "100 body tricklers: 408 after",
        "20 non-readers: handlers freed",
        "other clients: succeeded",
        "slowest",
    )
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for server, flood in found.items():
        closed = flood.headers_closed
        headers = f"{len(closed)} closed, last after {max(closed):.1f} s" if closed else "none closed"
        cut = [answer.seconds for answer in flood.bodies if answer.status == 408]
        bodies = f"{len(cut)}: {min(cut):.1f} to {max(cut):.1f} s" if cut else "0"
        freed = f"{flood.streams_before - flood.streams_after} of {flood.streams_before}"
        others = f"{flood.well_behaved[200]} of {flood.well_behaved.total()}"
        lines.append(f"| {server} | {headers} | {bodies} | {freed} | {others} | {flood.slowest:.2f} s |")
    return "\n".join(lines) + "\n"
