"""Deploys: what a service does between SIGTERM and its end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from operator import itemgetter
from time import monotonic

from ...engine.client import Answer, Held, encode
from ...engine.loops import Flood, closed_loop, open_loop
from ..bench import Bench, Written
from ..groups import group
from ..model import Verdict

_WATCH = 1.0
_CHEAP = "/assess-unknown"  # needs no database, which is slow meanwhile


@group("SHUT-1", "SHUT-2", "SHUT-3", "SHUT-4", "DATA-1", needs=("read",), fresh=True)
async def _orderly_end(bench: Bench) -> Mapping[str, Verdict]:
    """Stop it with SIGTERM while requests are in flight, and start it again."""
    writes = bench.spec.write is not None
    before = [await bench.write() for _ in range(10)] if writes else []
    seen = [written for written in before if written.answer.good and await bench.has(written)]
    held = await _hold(bench)
    ready = bench.spec.ready
    began = monotonic()
    if bench.service.is_running:
        bench.service.deliver(signal.SIGTERM)
    async with asyncio.TaskGroup() as group_:
        finished = group_.create_task(_finish_later(bench, held))
        fresh = group_.create_task(_knock(bench))
        kept = group_.create_task(_keep_asking(bench))
        probes = group_.create_task(_probe(bench, ready))
        ended = group_.create_task(_end(bench, began))
    if bench.link is not None:
        await bench.link.heal()
    bench.shared["ready_at_sigterm"] = probes.result()
    return {
        "SHUT-1": _in_flight(finished.result()),
        "SHUT-2": ended.result(),
        "SHUT-3": _served(bench, fresh.result()),
        "SHUT-4": _kept(kept.result()),
        "DATA-1": await _restarted(bench, before, seen),
    }


async def _hold(bench: Bench) -> list[Held]:
    held: list[Held] = []
    if bench.link is not None:
        await bench.link.delay(0.05)  # so that the pool has a connection for each before they are slow
        await closed_loop(bench.read, callers=8, requests=32)
        await bench.link.delay(0.6)
        held += [await bench.hold(write=False) for _ in range(4)]
    if bench.spec.write is not None:
        held += [await bench.hold() for _ in range(4)]
    await asyncio.sleep(0.3)
    return held


async def _finish_later(bench: Bench, held: list[Held]) -> list[Answer]:
    await asyncio.sleep(0.4)
    if bench.link is not None:
        await bench.link.heal()
    async with asyncio.TaskGroup() as group_:
        tasks = [group_.create_task(request.finish()) for request in held]
    return [task.result() for task in tasks]


def _in_flight(answers: list[Answer]) -> Verdict:
    if not answers:
        return Verdict.not_run("nothing can be held: the file names no write and no database")
    good = sum(answer.good for answer in answers)
    return Verdict.share(
        good,
        len(answers),
        f"{good} of {len(answers)} requests in flight were answered 2xx after SIGTERM",
        answers=[str(answer) for answer in answers],
    )


async def _end(bench: Bench, began: float) -> Verdict:
    grace = bench.spec.grace
    service = bench.service
    if not await service.wait(grace):
        return Verdict.fails(f"it was still there {grace:.0f} s after SIGTERM")
    took, code = monotonic() - began, service.code
    await asyncio.sleep(0.2)
    if left := service.leaves():
        return Verdict.fails(f"it ended, and left {len(left)} processes behind")
    clean = code in {0, -signal.SIGTERM, 128 + signal.SIGTERM}
    return Verdict.scored(
        1.0 if clean else 0.5, f"it ended {took:.1f} s after SIGTERM with code {code}", seconds=took
    )


async def _knock(bench: Bench) -> Flood:
    """Ask on a new connection every 50 ms."""
    return await open_loop(lambda: bench.call(bench.spec.live or _CHEAP, patience=5), rate=20, seconds=_WATCH)


def _served(bench: Bench, flood: Flood) -> Verdict:
    answers = sorted(flood.answers, key=itemgetter(0))
    good = sum(0 < answer.status < 500 for _, answer in answers)
    evidence = f"{good} of {len(answers)} new connections were served in the second after SIGTERM"
    facts = [(round(at, 2), answer.status) for at, answer in answers]
    if good >= 0.99 * len(answers):
        return Verdict.scored(1.0, evidence, around_sigterm=facts)
    prestop = bench.spec.prestop
    note = f"; the platform waits {prestop:.0f} s before SIGTERM" if prestop else ""
    return Verdict.scored(0.5 if prestop >= 2 else 0.0, evidence + note, around_sigterm=facts)


async def _keep_asking(bench: Bench) -> list[str]:
    """Use 6 kept connections, a request each 60 ms, until it has ended; return how each of them did."""
    last = monotonic() + bench.spec.grace

    async def one() -> str:
        try:
            connection = await bench.connect()
        except OSError:
            return "refused"
        path = bench.spec.live or _CHEAP
        try:
            while monotonic() < last:
                sent = await connection.send(encode("GET", path, bench.headers()))
                answer = await connection.answer(patience=5)
                if not sent or not answer.status:
                    return "broken"
                if "close" in answer.headers.get("connection", "").lower():
                    return "announced"
                await asyncio.sleep(0.06)
        finally:
            connection.close()
        return "open"

    async with asyncio.TaskGroup() as group_:
        tasks = [group_.create_task(one()) for _ in range(6)]
    return [task.result() for task in tasks]


def _kept(ends: list[str]) -> Verdict:
    broken = sum(end in {"broken", "refused"} for end in ends)
    said = f"{broken} of {len(ends)} kept connections broke without a word"
    return Verdict.scored({0: 1.0, 1: 0.5}.get(broken, 0.0), said, sure=broken == len(ends))


async def _probe(bench: Bench, ready: str) -> list[int]:
    """Return what readiness says after SIGTERM."""
    statuses: list[int] = []
    for _ in range(10 if ready else 0):
        statuses.append((await bench.call(ready, patience=2)).status)
        await asyncio.sleep(0.1)
    return statuses


async def _restarted(bench: Bench, before: list[Written], seen: list[Written]) -> Verdict:
    if not before:
        return Verdict.not_run("no [write] in the service file")
    if not seen:
        return Verdict.not_run("what is written cannot be read back, not even before the restart")
    await bench.start()
    verdict = await bench.survivors(seen, "an orderly restart")
    bench.durable = verdict.score == 1
    return verdict
