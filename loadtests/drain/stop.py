"""Stop one instance under load, and tell what each kind of client noticed."""

from __future__ import annotations

import asyncio
import signal

from postfacta_lab.drain.clients import Attempt, Clients, settled
from postfacta_lab.drain.result import Result
from postfacta_lab.engine.client import Outcome, PartialRequest, encode
from postfacta_lab.engine.processes import until

from .closing import Closing
from .plan import EVENT_SOURCE, Plan, Times
from .servers import Server, ServerKind
from .socket_client import hold_websocket

__all__ = ["stop_under_load"]


IDLE = 20
SLOW = 10
STREAMS = 5
LISTENERS = 2
# RFC 6455's registry: the service restarts.
SERVICE_RESTART = 1012


class _Load:
    """All clients of one run, from before the signal until the last of them has ended."""

    def __init__(self, server: Server, times: Times) -> None:
        self.times = times
        self.server = server
        self.clients = Clients(server.port, notice=times.notice)
        self.ready: list[tuple[float, int]] = []
        self.live: list[tuple[float, int]] = []
        self.sse: list[str] = []
        self.websockets: list[int] = []
        self.signalled = 0.0
        self.exited: float | None = None
        self.leftover = False

    async def run(self) -> None:
        """Load, signal, and wait for the end."""
        opened = asyncio.Semaphore(0)
        fire = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            self._listen(tasks, opened)
            for number in range(IDLE):
                delay = self.times.notice * (number + 0.5) / IDLE
                tasks.create_task(self.clients.idle(opened, fire, delay=delay))
            for _ in range(IDLE + LISTENERS):
                await opened.acquire()
            self._keep_busy(tasks)
            await asyncio.sleep(self.times.warm)
            await self._put_in_flight(tasks)
            self.signalled = self.server.deliver(signal.SIGTERM)
            self.clients.ends = self.signalled + self.times.budget
            fire.set()
            await self._see_it_off()

    def _listen(self, tasks: asyncio.TaskGroup, opened: asyncio.Semaphore) -> None:
        async def events() -> None:
            held = await PartialRequest.begin(
                self.server.port, encode("GET", "/sse", EVENT_SOURCE), patience=20.0
            )
            answer = await held.finish(None, begun=opened.release)
            self.sse.append("ended" if answer.status else str(answer.broken))

        async def websocket() -> None:
            self.websockets.append(await hold_websocket(self.server.port, "/ws"))

        for _ in range(LISTENERS):
            tasks.create_task(events())
            tasks.create_task(websocket())

    def _keep_busy(self, tasks: asyncio.TaskGroup) -> None:
        self.clients.begin(tasks, ["/"])
        tasks.create_task(self.clients.probe("/healthz/ready", self.ready, every=0.01))
        # What restarts a dead process asks on its own, and decides nothing about traffic.
        tasks.create_task(self.clients.probe("/healthz/live", self.live, every=0.05, decides=False))

    async def _put_in_flight(self, tasks: asyncio.TaskGroup) -> None:
        for client, number in (("slow", SLOW), ("stream", STREAMS)):
            for _ in range(number):
                path = f"/{client}?seconds={self.times.in_flight}"
                tasks.create_task(self.clients.once(client, path))
        await until(self._all_begun, 5)

    def _all_begun(self) -> bool:
        begun = [event.path for event in self.server.journal() if event.name == "handler-begin"]
        return begun.count("/slow") == SLOW and begun.count("/stream") == STREAMS

    async def _see_it_off(self) -> None:
        self.exited = await self.server.exited(within=self.times.budget + 1)
        self.leftover = self.exited is not None and not await self.server.leaves_nothing()
        # A client that still waits for an answer of a killed server gets none, and reports that.
        self.server.kill()


async def stop_under_load(kind: ServerKind, plan: Plan) -> Result:
    """Send SIGTERM to a server under load, and judge it by the goals."""
    async with plan.server(kind, plan.times, label="stop") as server:
        await server.ready()
        load = _Load(server, plan.times)
        await load.run()
        closing = Closing.of(server.journal())
    return _result(load, closing)


def _result(load: _Load, closing: Closing) -> Result:
    failed = [a for a in load.clients.attempts if a.outcome is not Outcome.OK]
    after = [a for a in failed if load.exited is not None and a.at > load.exited]
    unready = settled(load.ready, load.signalled)
    in_flight = _good(load, "slow", "stream")
    idle = _good(load, "idle")
    seconds = None if load.exited is None else load.exited - load.signalled
    code = load.server.code
    cells = {
        "mechanism": (
            ", ".join(sorted({event.mechanism for event in load.server.journal()} - {""})) or "-"
        ),
        "failed / requests": f"{len(failed)} / {len(load.clients.attempts)}{_kinds(failed)}",
        "in flight finished": f"{in_flight}/{SLOW + STREAMS}",
        "idle reused": f"{idle}/{IDLE}",
        "readiness 503 after": "never" if unready is None else f"{unready:.2f} s",
        "live": "200" if _stayed_live(load) else "failed",
        "SSE": ", ".join(sorted(set(load.sse))),
        "WebSocket": ", ".join(str(code) for code in sorted(set(load.websockets))),
        "lifespan": str(closing),
        "exit": "killed by us" if seconds is None else f"{code} after {seconds:.1f} s",
    }
    facts: dict[str, object] = {
        "failures": [[a.client, str(a.outcome), round(a.at - load.signalled, 3)] for a in failed],
        "requests": len(load.clients.attempts),
        "failed_after_exit": len(after),
        "settled": unready,
        "exit_code": None if seconds is None else code,
        "exit_after": seconds,
    }
    misses = [
        *_missed_by_clients(load, failed, in_flight),
        *_missed_by_server(load, closing, seconds),
    ]
    return Result(
        scenario="stop", server=load.server.kind.name, cells=cells, misses=misses, facts=facts
    )


def _good(load: _Load, *clients: str) -> int:
    return sum(a.client in clients and a.outcome is Outcome.OK for a in load.clients.attempts)


def _kinds(failed: list[Attempt]) -> str:
    kinds = sorted({str(a.outcome) for a in failed})
    return (
        f" ({', '.join(f'{sum(a.outcome == kind for a in failed)} {kind}' for kind in kinds)})"
        if kinds
        else ""
    )


def _stayed_live(load: _Load) -> bool:
    # Once the listener is closed nothing answers.
    return all(status in {0, 200} for _, status in load.live)


def _missed_by_clients(load: _Load, failed: list[Attempt], in_flight: int) -> list[str]:
    misses: list[str] = []
    if failed:
        misses.append(
            f"{len(failed)} of {len(load.clients.attempts)} requests failed{_kinds(failed)}"
        )
    if in_flight < SLOW + STREAMS:
        misses.append(f"{in_flight} of {SLOW + STREAMS} requests in flight finished")
    if set(load.sse) != {"ended"}:
        misses.append(f"server-sent events were cut off: {load.sse}")
    if set(load.websockets) != {SERVICE_RESTART}:
        misses.append(f"WebSockets were closed with {load.websockets}")
    return misses


def _missed_by_server(load: _Load, closing: Closing, seconds: float | None) -> list[str]:
    misses = closing.misses()
    within = load.server.kind.unready_within + load.times.slack
    unready = settled(load.ready, load.signalled)
    if unready is None or unready > within:
        after = "never" if unready is None else f"after {unready:.2f} s"
        misses.append(f"readiness was 503 {after}; the goal is {within:.1f} s")
    if not _stayed_live(load):
        misses.append("liveness failed")
    if seconds is None or seconds > load.times.budget:
        misses.append(f"no exit within {load.times.budget:.1f} s")
    elif load.server.code != 0:
        misses.append(f"exit code {load.server.code}")
    if load.leftover:
        misses.append("a process outlived its parent")
    return misses
