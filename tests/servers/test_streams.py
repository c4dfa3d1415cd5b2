"""What the client of each kind of stream gets when its server is stopped, with the library and without.

The short variant has an answer that outlives the drain delay; answers of 8 and 15 s with the
default limits, on every server of the matrix, are `make drain` and, as long tests, `make proofs`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h2.config
import h2.connection
import pytest
from hyperframe.frame import DataFrame, Frame, PingFrame, RstStreamFrame, SettingsFrame

from loadtests.drain import streams
from loadtests.drain.plan import EVENT_SOURCE, Plan, Times
from loadtests.drain.servers import MATRIX, Server, ServerKind
from loadtests.drain.streams import Got
from postfacta_core.drain import DrainLimits
from postfacta_lab.engine.client import ask, encode
from postfacta_lab.engine.processes import until
from tests.kit.every import every

APP = "tests.servers.drain_app:app"
# One for each mechanism: wrap, wrap below a parent, the loop's handlers, nobody's handler; and each
# parser of uvicorn.
SUBSET = ["uvicorn-1", "uvicorn-1-h11", "uvicorn-2", "granian-1", "hypercorn-trio-0"]
QUICK = Times(
    drain_delay=1.0,
    drain_timeout=4.0,
    close_timeout=1.0,
    warm=0.3,
    short_answer=2.0,
    long_answer=3.5,
    slack=4.0,
)


@pytest.fixture
def anyio_backend() -> str:
    """The harness's clients are asyncio's, whatever loop the server runs on."""
    return "asyncio"


def plan(folder: Path, times: Times = QUICK, *, plain: bool = False) -> Plan:
    return Plan(app=APP, folder=folder, plain=plain, times=times)


@pytest.mark.parametrize("server", SUBSET)
async def test_each_client_gets_what_its_kind_of_stream_needs(server: str, tmp_path: Path) -> None:
    result = await streams.stop_streams(MATRIX[server], plan(tmp_path))
    assert result.misses == []


async def test_what_the_bare_server_finishes_is_finished(tmp_path: Path) -> None:
    kind = MATRIX["uvicorn-1"]
    bare, hardened = await asyncio.gather(
        streams.stop_streams(kind, plan(tmp_path / "bare", plain=True)),
        streams.stop_streams(kind, plan(tmp_path / "hardened")),
    )
    finished = {name for name, cell in bare.cells.items() if cell == "whole"}
    assert {"answer of 2 s", "answer of 3.5 s", "NDJSON", "download", "long poll"} == finished
    assert {name: hardened.cells[name] for name in finished} == dict.fromkeys(finished, "whole")
    # What it cannot do: the endless ones keep it from its end.
    assert any("no exit" in miss for miss in bare.misses)
    assert hardened.misses == []


@pytest.mark.long
@pytest.mark.parametrize("server", MATRIX)
async def test_answers_of_8_and_15_seconds_are_whole(server: str, tmp_path: Path) -> None:
    limits = DrainLimits()
    assert (limits.drain_delay, limits.drain_timeout, limits.close_timeout) == streams.DEFAULTS
    result = await streams.stop_by_default(MATRIX[server], plan(tmp_path, Times(slack=4.0)))
    assert result.misses == []


def second_version(server: str) -> ServerKind:
    kind = MATRIX[server]
    return replace(kind, command=kind.command.replace("--http 1 ", "--http auto "))


class Client:
    """A client of HTTP/2 with prior knowledge, and what became of each of its requests.

    It reads frames by itself: the library h2 takes none after a GOAWAY, with which a server begins
    to stop.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.paths: dict[int, str] = {}
        self.bodies: dict[str, bytes] = {}
        self.ends: dict[str, str] = {}

    def ask(self, method: str, path: str) -> None:
        stream = self.connection.get_next_available_stream_id()
        self.paths[stream], self.bodies[path] = path, b""
        fields = {":method": method, ":path": path, ":scheme": "http", ":authority": "x"}
        fields |= {name.lower(): value for name, value in EVENT_SOURCE.items()}
        self.connection.send_headers(stream, list(fields.items()), end_stream=True)

    async def run(self, requests: dict[str, str], begun: Callable[[], object]) -> None:
        """Send requests on one connection, and read until it ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.connection.initiate_connection()
        for path, method in requests.items():
            self.ask(method, path)
        writer.write(self.connection.data_to_send())
        try:
            while True:
                frame, length = Frame.parse_frame_header(memoryview(await reader.readexactly(9)))
                frame.parse_body(memoryview(await reader.readexactly(length)))
                match frame:
                    case PingFrame(flags=flags, opaque_data=data) if "ACK" not in flags:
                        writer.write(PingFrame(0, opaque_data=data, flags=["ACK"]).serialize())
                    case SettingsFrame(flags=flags) if "ACK" not in flags:
                        writer.write(SettingsFrame(0, flags=["ACK"]).serialize())
                    case _:
                        self.note(frame)
                if all(self.bodies.values()):
                    begun()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def note(self, frame: Frame) -> None:
        path = self.paths.get(frame.stream_id, "")
        if isinstance(frame, DataFrame):
            self.bodies[path] += frame.data
        if "END_STREAM" in frame.flags:
            self.ends[path] = "ended"
        elif isinstance(frame, RstStreamFrame):
            self.ends[path] = "reset"


@pytest.mark.parametrize(("server", "cut"), [("granian-1", "reset"), ("hypercorn-0", None)])
async def test_what_is_cut_over_http2_is_not_ended(
    server: str, cut: str | None, tmp_path: Path
) -> None:
    # hypercorn has no reset for an application that leaves its response unfinished: the connection
    # ends.
    requests = {"/sse": "GET", "/sse?": "POST", "/tail": "GET", "/answer?seconds=2.5": "POST"}
    async with plan(tmp_path).server(second_version(server), QUICK, label="h2") as running:
        await running.ready()
        client, begun = Client(running.port), asyncio.Event()
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            tasks.create_task(client.run(requests, begun.set))
            await begun.wait()
            running.deliver(signal.SIGTERM)
            assert await running.exited(within=QUICK.budget) is not None
    with every() as case:
        with case("EventSource"):
            assert client.ends.get("/sse") == "ended"
            assert b"retry: " in client.bodies["/sse"]
        with case("answer"):
            assert client.ends.get("/answer?seconds=2.5") == "ended"
            assert client.bodies["/answer?seconds=2.5"].endswith(b"data: [DONE]\n\n")
        for path in ("/sse?", "/tail"):
            with case(path):
                assert client.ends.get(path) == cut
                assert b"retry: " not in client.bodies[path]


async def test_a_farewell_waits_for_the_end_of_an_event(tmp_path: Path) -> None:
    async with plan(tmp_path).server(MATRIX["uvicorn-1"], QUICK, label="halves") as running:
        await running.ready()
        async with asyncio.timeout(15), asyncio.TaskGroup() as tasks:
            listener = tasks.create_task(streams.read(running.port, "GET", "/halves", EVENT_SOURCE))
            await until(lambda: running.count("handler-begin") > 0, 10)
            running.deliver(signal.SIGTERM)
    got = listener.result()
    assert got.is_complete
    *events, farewell, end = got.body.split(b"\n\n")
    assert set(events) == {b"data: the first half, the second half"}
    assert farewell.startswith(b"retry: ")
    assert end == b""


async def test_a_route_is_drained_as_its_options_say(tmp_path: Path) -> None:
    asked = {"Accept": "text/event-stream"}
    requests = {"/soon": "GET", "/resumed": "POST", "/cut": "GET", "/slow?seconds=4": "GET"}
    order: list[str] = []
    got: dict[str, str] = {}
    async with plan(tmp_path).server(MATRIX["uvicorn-1"], QUICK, label="routes") as running:
        await running.ready()

        async def follow(path: str, method: str) -> None:
            got[path] = str(await streams.read(running.port, method, path, asked))
            order.append(path)

        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            for path, method in requests.items():
                tasks.create_task(follow(path, method))
            await until(lambda: running.count("handler-begin") == len(requests), 10)
            running.deliver(signal.SIGTERM)
    assert got == {
        "/resumed": "farewell, ended",
        "/cut": "unfinished",
        "/soon": "503",
        "/slow?seconds=4": "ended",
    }
    # Two right after the drain's delay, one half a second later, and the last by itself.
    assert set(order[:2]) == {"/resumed", "/cut"}
    assert order[2:] == ["/soon", "/slow?seconds=4"]


# A request's own time, which its client may set.
TIMED = {"X-Request-Timeout": "0.5"}


@pytest.mark.parametrize("server", [*SUBSET, "hypercorn-0", "gunicorn-asgi-2"])
async def test_a_stream_that_a_deadline_cuts_is_unfinished(server: str, tmp_path: Path) -> None:
    async with plan(tmp_path).server(MATRIX[server], QUICK, label="deadline") as running:
        await running.ready()
        got = await asyncio.gather(
            timed(running, "POST", "/answer?seconds=20"),
            timed(running, "GET", "/sse"),
            timed(running, "GET", "/lines?seconds=20"),
            timed(running, "GET", "/download?seconds=20"),
        )
    assert [str(each) for each in got] == ["unfinished"] * 4


async def timed(server: Server, method: str, path: str) -> Got:
    async with asyncio.timeout(15):
        return await streams.read(
            server.port, method, path, {"Accept": "text/event-stream", **TIMED}
        )


@pytest.mark.parametrize("server", ["uvicorn-1", "uvicorn-1-h11", "granian-1", "hypercorn-0"])
async def test_a_client_that_leaves_midway_is_counted_so(server: str, tmp_path: Path) -> None:
    async with plan(tmp_path).server(MATRIX[server], QUICK, label="left") as running:
        await running.ready()
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(encode("GET", "/deaf"))
        await reader.readuntil(b"part 0")
        writer.close()
        # uvicorn takes the rest of the response, as if its client still read it.
        await until(lambda: running.count("handler-end") > 0, 15)
        metrics = await ask(running.port, encode("GET", "/metrics"))
    name = "postfacta_stream_duration_seconds_count"
    lines = [
        line for line in metrics.text.splitlines() if line.startswith(name) and "/deaf" in line
    ]
    (counted,) = [line for line in lines if line.endswith(" 1.0")]
    assert 'outcome="left"' in counted
