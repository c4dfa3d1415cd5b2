"""A server that is stopped fails no request, on one server for each way to catch the signal.

The whole matrix, and restarts behind HAProxy, run by `make drain`. The last test shows that the
harness would notice: without the library, the same server under the same load fails in every way
that the goals speak of.
"""

from __future__ import annotations

import signal
from pathlib import Path

import anyio
import pytest

from loadtests.drain import corners, stop
from loadtests.drain.closing import Closing
from loadtests.drain.plan import Plan, Times
from loadtests.drain.servers import MATRIX

APP = "tests.servers.drain_app:app"
# One for each mechanism: wrap, wrap below a parent, the loop's handlers, nobody's handler.
SUBSET = ["uvicorn-1", "uvicorn-2", "granian-1", "hypercorn-trio-0"]
# The slack is for a machine that does more than this.
QUICK = Times(
    drain_delay=1.0,
    drain_timeout=4.0,
    close_timeout=1.0,
    notice=0.6,
    in_flight=1.5,
    warm=0.4,
    slack=2.0,
)


@pytest.fixture
def anyio_backend() -> str:
    """The harness's clients are asyncio's, whatever loop the server runs on."""
    return "asyncio"


def plan(folder: Path, *, plain: bool = False) -> Plan:
    return Plan(app=APP, folder=folder, plain=plain, times=QUICK)


@pytest.mark.parametrize("server", SUBSET)
async def test_no_request_fails_when_a_server_under_load_is_stopped(
    server: str, tmp_path: Path
) -> None:
    result = await stop.stop_under_load(MATRIX[server], plan(tmp_path))
    assert result.misses == []
    assert result.cells["in flight finished"] == "15/15"


@pytest.mark.parametrize("server", SUBSET)
async def test_requests_that_never_end_get_a_clean_refusal_at_the_deadline(
    server: str, tmp_path: Path
) -> None:
    result = await corners.drain_deadline(MATRIX[server], plan(tmp_path))
    assert result.misses == []


@pytest.mark.parametrize("server", ["uvicorn-1", "hypercorn-trio-0"])
async def test_a_second_signal_ends_the_lame_duck(server: str, tmp_path: Path) -> None:
    result = await corners.second_signal(MATRIX[server], plan(tmp_path))
    assert result.misses == []


async def test_sigint_after_sigterm_ends_the_lame_duck_only_when_it_comes_twice(
    tmp_path: Path,
) -> None:
    # In a session of its own no terminal sends it: SIGINT and SIGTERM are one request to stop.
    kind, quick = MATRIX["uvicorn-1"], plan(tmp_path)
    async with quick.server(kind, quick.limits(20.0, 5.0, 2.0), label="sigint") as server:
        await server.ready()
        for signum in (signal.SIGTERM, signal.SIGINT):
            server.deliver(signum)
            await anyio.sleep(1.0)
            assert server.is_running
            assert server.count("shutdown-begin") == 0
        server.deliver(signal.SIGINT)
        assert await server.exited(within=10) is not None
        assert server.code == 0
        assert Closing.of(server.journal()).misses() == []


async def test_the_harness_notices_what_a_server_without_the_library_does(tmp_path: Path) -> None:
    result = await stop.stop_under_load(MATRIX["hypercorn-trio-0"], plan(tmp_path, plain=True))
    found = "\n".join(result.misses)
    for miss in (
        "requests failed",
        "stale_eof",
        "refused",
        "0 of 15 requests in flight finished",
        "server-sent events were cut off",
        "WebSockets were closed with",
        "lifespan shutdown ran in 0 of 1 workers",
        "readiness was 503 never",
        "exit code -15",
    ):
        assert miss in found
