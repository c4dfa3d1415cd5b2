"""The life of an instance.

How it ends, what its probes say, what is kept of what it acknowledged.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from time import monotonic

from ...engine.client import Flood, PartialRequest, Response, closed_loop, encode, open_loop
from ...engine.processes import until
from ..bench import Bench, Written, together
from ..model import CheckResult, group

_CHEAP = "/assess-unknown"  # needs no database, which is slow meanwhile
_LAST = 120  # acknowledged writes that are read back after SIGKILL


@group("SHUT-1", "SHUT-2", "SHUT-3", "SHUT-4", "DATA-1", needs=("read",), fresh=True)
async def _orderly_end(bench: Bench) -> Mapping[str, CheckResult]:
    """End an instance by SIGTERM with requests in flight, and start it again."""
    readable: list[Written] = []
    if bench.spec.write:
        before = [await bench.write() for _ in range(10)]
        acknowledged = [written for written in before if written.answer.good]
        readable += [written for written in acknowledged if await bench.has(written)]
    requests = await _hold(bench)
    began = monotonic()
    if bench.service.is_running:
        bench.service.deliver(signal.SIGTERM)
    path = bench.spec.live or _CHEAP
    new_connections = open_loop(lambda: bench.call(path, patience=5), rate=20, seconds=1.0)
    kept_connections = [_keep_asking(bench) for _ in range(6)]
    async with asyncio.TaskGroup() as tasks:
        finished = tasks.create_task(_finish_later(bench, requests))
        fresh = tasks.create_task(new_connections)
        asking = tasks.create_task(together(*kept_connections))
        probes = tasks.create_task(_probe(bench))
        ended = tasks.create_task(_end(bench, began))
    await bench.heal()
    bench.shared["ready_at_sigterm"] = probes.result()
    return {
        "SHUT-1": _in_flight(finished.result(), bench.spec.keeps),
        "SHUT-2": ended.result(),
        "SHUT-3": _served(fresh.result(), bench.spec.prestop),
        "SHUT-4": _connections_end(asking.result()),
        "DATA-1": await _restarted(bench, readable),
    }


async def _hold(bench: Bench) -> list[PartialRequest]:
    requests: list[PartialRequest] = []
    if bench.spec.database:
        # So that the pool has a connection for each before they are slow.
        await bench.link.delay(0.05)
        await closed_loop(bench.read, callers=8, requests=32)
        await bench.link.delay(0.6)
        requests += [await bench.hold(write=False) for _ in range(4)]
    if bench.spec.write:
        requests += [await bench.hold() for _ in range(4)]
    await asyncio.sleep(0.3)
    return requests


async def _finish_later(bench: Bench, requests: list[PartialRequest]) -> list[Response]:
    await asyncio.sleep(0.4)
    await bench.heal()
    return await together(*(request.finish() for request in requests))


def _in_flight(answers: list[Response], keeps: str) -> CheckResult:
    if not answers and keeps == "nothing":
        return CheckResult.not_applicable("nothing to ask: no write of it could be cut off")
    if not answers:
        return CheckResult.not_run("nothing can be held: the file names no write and no database")
    good = sum(answer.good for answer in answers)
    count = len(answers)
    evidence = f"{good} of {count} requests in flight were answered 2xx after SIGTERM"
    facts = [str(answer) for answer in answers]
    return CheckResult.share(good, count, evidence, answers=facts)


async def _end(bench: Bench, began: float) -> CheckResult:
    grace = bench.spec.grace
    service = bench.service
    if not await until(lambda: not service.is_running, grace):
        return CheckResult.fails(f"it was still there {grace:.0f} s after SIGTERM")
    seconds = monotonic() - began
    code = service.code
    await asyncio.sleep(0.2)
    if left := service.leaves():
        return CheckResult.fails(f"it ended, and left {len(left)} processes behind")
    clean = code in {0, -signal.SIGTERM, 128 + signal.SIGTERM}
    score = 1.0 if clean else 0.5
    evidence = f"it ended {seconds:.1f} s after SIGTERM with code {code}"
    return CheckResult.scored(score, evidence, seconds=seconds)


def _served(flood: Flood, prestop: float) -> CheckResult:
    answers = sorted(flood.answers, key=itemgetter(0))
    good = sum(0 < answer.status < 500 for _, answer in answers)
    count = len(answers)
    evidence = f"{good} of {count} new connections were served in the second after SIGTERM"
    facts = [(round(at, 2), answer.status) for at, answer in answers]
    if good >= 0.99 * count:
        return CheckResult.scored(1.0, evidence, around_sigterm=facts)
    if prestop:
        evidence += f"; the platform waits {prestop:.0f} s before SIGTERM"
    score = 0.5 if prestop >= 2 else 0.0
    return CheckResult.scored(score, evidence, around_sigterm=facts)


async def _keep_asking(bench: Bench) -> str:
    """Use a kept connection, a request each 60 ms, until it has ended; return how it did."""
    last = monotonic() + bench.spec.grace
    path = bench.spec.live or _CHEAP
    request = encode("GET", path, bench.headers())
    connection = await bench.connect()
    try:
        while monotonic() < last:
            sent = await connection.send(request)
            answer = await connection.answer(patience=5)
            if not sent or not answer.status:
                return "broken"
            header = answer.headers.get("connection", "")
            if "close" in header.lower():
                return "announced"
            await asyncio.sleep(0.06)
    finally:
        connection.close()
    return "open"


def _connections_end(ends: list[str]) -> CheckResult:
    broken = ends.count("broken")
    total = len(ends)
    evidence = f"{broken} of {total} kept connections broke without a word"
    return CheckResult.within(broken, evidence, full=0, half=1, sure=broken == total)


async def _probe(bench: Bench) -> list[int]:
    """Return what readiness says after SIGTERM."""
    statuses: list[int] = []
    looks = 10 if bench.spec.ready else 0
    for _ in range(looks):
        answer = await bench.call(bench.spec.ready, patience=2)
        statuses.append(answer.status)
        await asyncio.sleep(0.1)
    return statuses


async def _restarted(bench: Bench, readable: list[Written]) -> CheckResult:
    if not readable and bench.spec.keeps == "nothing":
        return CheckResult.not_applicable("nothing to ask: it keeps nothing that could be lost")
    if not bench.spec.write:
        return CheckResult.not_run("the service file names no write")
    if not readable:
        return CheckResult.not_run(
            "what is written cannot be read back, not even before the restart"
        )
    await bench.start()
    result = await _survivors(bench, readable, "an orderly restart")
    bench.durable = result.score == 1
    return result


async def _survivors(bench: Bench, writes: Sequence[Written], event: str) -> CheckResult:
    """Read writes back after something was done; what cannot be known is no loss."""
    outcomes = Counter([await _patiently(bench, written) for written in writes])
    total = len(writes)
    lost = outcomes[False]
    unknown = outcomes[None]
    if lost:
        return CheckResult.fails(f"{lost} of {total} acknowledged writes were lost by {event}")
    if unknown:
        return CheckResult.not_run(
            f"{unknown} of {total} writes could not be read back after {event}"
        )
    return CheckResult.passes(f"{total} acknowledged writes were read back after {event}")


async def _patiently(bench: Bench, written: Written) -> bool | None:
    for _ in range(30):
        if (is_there := await bench.has(written)) is not None:
            return is_there
        await asyncio.sleep(0.2)
    return None


@group("HLTH-1")
async def _two_paths(bench: Bench) -> CheckResult:
    probes = sorted({bench.spec.live, bench.spec.ready} - {""})
    paths = " and ".join(probes) or "no path"
    return CheckResult.share(len(probes), 2, f"probes were found at {paths}")


@group("HLTH-2", needs=("read",), quick=False)
async def _readiness(bench: Bench) -> CheckResult:
    ready = bench.spec.ready
    if not ready:
        return CheckResult.fails("no readiness probe was found", sure=True)
    if ready == bench.spec.live:
        return CheckResult.scored(0.5, f"{ready} is both, so that one meaning is lost")
    if bench.spec.database:
        return await _through_a_cut(bench)
    statuses: list[int] = bench.shared.get("ready_at_sigterm", [])
    if not statuses:
        return CheckResult.not_run("readiness at SIGTERM was not seen")
    unique = dict.fromkeys(statuses)
    answers = ", ".join(str(status or "nothing") for status in unique)
    return CheckResult.holds(503 in statuses, f"after SIGTERM {ready} said {answers}")


async def _through_a_cut(bench: Bench) -> CheckResult:
    live = bench.spec.live
    ready = bench.spec.ready
    await bench.link.stop()
    fell, lived = await _watch(bench, falls=True)
    await bench.link.heal()
    if fell is None:
        return CheckResult.fails(f"{ready} did not fall within 30 s of the database's loss")
    if not lived:
        consequence = "the platform would restart it for its database's loss"
        return CheckResult.fails(f"{live} failed too: {consequence}")
    rose, _ = await _watch(bench, falls=False)
    has_risen = rose is not None
    rises = "rose again" if has_risen else "did not rise again"
    return CheckResult.holds(has_risen, f"{ready} fell after {fell:.1f} s and {rises}", fell=fell)


async def _watch(bench: Bench, *, falls: bool) -> tuple[float | None, bool]:
    """Return after how long readiness was as awaited, and whether it lived all the while."""
    began = monotonic()
    lived = True
    while (at := monotonic() - began) < 30:
        if lived:
            alive = await bench.call(bench.spec.live, patience=3)
            lived = alive.good
        answer = await bench.call(bench.spec.ready, patience=3)
        is_as_awaited = answer.status == 503 if falls else answer.good
        if is_as_awaited:
            return at, lived
        await asyncio.sleep(0.2)
    return None, lived


@group("DATA-2", needs=("read", "write"))
async def _killed(bench: Bench) -> CheckResult:
    first = await bench.write()
    is_readable = first.answer.good and await bench.has(first)
    if not is_readable and bench.spec.keeps == "nothing":
        return CheckResult.not_applicable("nothing to ask: it keeps nothing that could be lost")
    if not is_readable:
        return CheckResult.not_run("what is written cannot be read back, not even before the end")
    acknowledged = await _write_until_killed(bench)
    bench.service.kill()
    if not acknowledged:
        return CheckResult.not_run("no write was acknowledged in 10 s")
    await bench.start()
    result = await _survivors(bench, acknowledged[-_LAST:], "SIGKILL")
    if result.word == "fail":
        bench.durable = False
    return result


async def _write_until_killed(bench: Bench) -> list[Written]:
    """Let 4 writers write, and kill all of it meanwhile; return what was acknowledged."""
    acknowledged: list[Written] = []
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            written = await bench.write(patience=5)
            if not written.answer.status:
                return
            if written.answer.good:
                acknowledged.append(written)
            else:
                await asyncio.sleep(0.05)

    async def kill() -> None:
        await until(lambda: len(acknowledged) >= _LAST, 10.0, every=0.1)
        bench.dirty = True
        bench.service.signal_all(signal.SIGKILL)
        stop.set()

    writers = [write() for _ in range(4)]
    await together(*writers, kill())
    return acknowledged


@group("DATA-3", needs=("read", "write"))
async def _repeated(bench: Bench) -> CheckResult:
    mark = bench.mark()
    key = {"Idempotency-Key": mark}
    first = await bench.write(mark, headers=key)
    second = await bench.write(mark, headers=key)
    if not first.answer.good:
        return CheckResult.not_run(f"a write with an Idempotency-Key was answered {first.answer}")
    if second.answer.status in {409, 422}:
        return CheckResult.passes(f"the repetition was refused with {second.answer.status}")
    is_same = first.id == second.id != mark
    if not is_same and "{id}" not in bench.reading.path:
        listed = await bench.read()
        is_same = listed.text.count(mark) == 1
    if is_same and second.answer.good:
        return CheckResult.passes(f"both were answered with the id {first.id}")
    return CheckResult.fails("the same write under one Idempotency-Key had two effects")
