"""Stop one instance while streams of each kind and work that requests began are under way.

Tell what its clients got, and what became of the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import h11

from postfacta_lab.drain.result import Result
from postfacta_lab.engine.client import HOST
from postfacta_lab.engine.processes import until

from .corners import signalled
from .plan import EVENT_SOURCE, Plan
from .servers import Server, ServerKind
from .socket_client import hold_websocket

__all__ = ["DEFAULTS", "Got", "read", "stop_by_default", "stop_streams"]

# The drain delay, the drain timeout and the close timeout, in seconds.
DEFAULTS = 5.0, 20.0, 5.0
_RESTART = 1012
_FAREWELL = b"retry: "
_PIECES = 5  # Of work, of each length.


@dataclass(frozen=True, slots=True)
class Got:
    """What a client of HTTP/1.1 got.

    The status, the body so far, and whether the message was complete.
    """

    status: int = 0
    body: bytes = b""
    is_complete: bool = False

    def __str__(self) -> str:
        if not self.status:
            return "no answer"
        if self.status != 200:
            return str(self.status)
        if not self.is_complete:
            return "unfinished" if _FAREWELL not in self.body else "unfinished, with bytes of ours"
        return "ended" if _FAREWELL not in self.body else "farewell, ended"


@dataclass(frozen=True, slots=True)
class _Stream:
    """A kind of stream: how it is asked for, and what its client must get when the service is stopped."""

    path: str
    goal: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    last: bytes = b""  # of a body that is whole

    def seen(self, got: Got) -> str:
        if got.is_complete and self.last:
            return "whole" if got.body.endswith(self.last) else "ended, not whole"
        return str(got)


def _streams(short: float, long: float) -> Mapping[str, _Stream]:
    return {
        f"answer of {short:g} s": _answer(short),
        f"answer of {long:g} s": _answer(long),
        "NDJSON": _Stream(f"/lines?seconds={long}", "whole", last=b'"last": true}\n'),
        "download": _Stream(f"/download?seconds={long}", "whole", last=b"the last part\n"),
        "long poll": _Stream(f"/slow?seconds={long}", "whole", last=b"slow\n"),
        "EventSource": _Stream("/sse", "farewell, ended", headers=EVENT_SOURCE),
        "endless POST": _Stream("/sse", "unfinished", method="POST", headers=EVENT_SOURCE),
        "endless NDJSON": _Stream("/tail", "unfinished"),
    }


def _answer(seconds: float) -> _Stream:
    """Ask as a client of a language model does."""
    path = f"/answer?seconds={seconds}"
    return _Stream(
        path,
        "whole",
        method="POST",
        headers={"Accept": "text/event-stream"},
        last=b"data: [DONE]\n\n",
    )


async def stop_by_default(kind: ServerKind, plan: Plan) -> Result:
    """Do it with the limits that `harden` has by default."""
    return await stop_streams(kind, replace(plan, times=plan.limits(*DEFAULTS)))


async def stop_streams(kind: ServerKind, plan: Plan) -> Result:
    """Stop while streams of each kind are under way, and work that was begun beside requests.

    What ends in time is whole, no cut is hidden, and no work is lost.
    """
    times = plan.times
    works = [times.short_answer, times.long_answer] * _PIECES
    streams = _streams(times.short_answer, times.long_answer)
    got: dict[str, Got] = {}
    closed: list[int] = []

    async def follow(server: Server, name: str, stream: _Stream) -> None:
        got[name] = await read(server.port, stream.method, stream.path, stream.headers)

    async def hold(server: Server) -> None:
        closed.append(await hold_websocket(server.port, "/ws"))

    async with plan.server(kind, times, label="streams") as server:
        await server.ready()
        async with asyncio.TaskGroup() as tasks:
            for name, stream in streams.items():
                tasks.create_task(follow(server, name, stream))
            tasks.create_task(hold(server))
            await until(lambda: server.count("handler-begin") > len(streams), 10)
            for seconds in works:
                await read(server.port, "GET", f"/work?seconds={seconds}", {})
            await asyncio.sleep(times.warm)
            async with signalled(server, times) as ending:
                pass
    cells = {name: stream.seen(got[name]) for name, stream in streams.items()}
    done = server.count("work-end")
    cells |= {
        "WebSocket": str(closed[0]),
        "work begun": f"{done}/{len(works)}",
        "exit": str(ending),
    }
    goals = {name: stream.goal for name, stream in streams.items()}
    goals |= {"WebSocket": str(_RESTART), "work begun": f"{len(works)}/{len(works)}"}
    misses = [
        f"{name}: {cells[name]}, where the goal is {goal}"
        for name, goal in goals.items()
        if cells[name] != goal
    ]
    misses += ending.misses(times.budget)
    return Result(scenario="streams", server=kind.name, cells=cells, misses=misses)


async def read(
    port: int,
    method: str,
    path: str,
    headers: Mapping[str, str],
) -> Got:
    """Send a request and read its response to the end of the message or of the connection, whichever is first."""
    client = h11.Connection(h11.CLIENT)
    head = h11.Request(
        method=method,
        target=path,
        headers=[("Host", HOST), ("Content-Length", "0"), *headers.items()],
    )
    got = Got()
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return got
    try:
        writer.write((client.send(head) or b"") + (client.send(h11.EndOfMessage()) or b""))
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                client.receive_data(await reader.read(65_536))
            elif isinstance(event, h11.Response):
                got = replace(got, status=event.status_code)
            elif isinstance(event, h11.Data):
                got = replace(got, body=got.body + event.data)
            elif isinstance(event, h11.EndOfMessage):
                return replace(got, is_complete=True)
            else:
                return got
    except (OSError, h11.RemoteProtocolError):
        return got
    finally:
        writer.close()
