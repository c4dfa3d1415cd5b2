"""Data: what is acknowledged is kept, and a repetition changes nothing."""

from __future__ import annotations

import asyncio
import signal

from ..bench import Bench, Written
from ..groups import group
from ..model import Verdict

_LAST = 120


@group("DATA-2", needs=("read", "write"))
async def _killed(bench: Bench) -> Verdict:
    """Kill it while it writes."""
    first = await bench.write()
    if not (first.answer.good and await bench.has(first)):
        return Verdict.not_run("what is written cannot be read back, not even before the end")
    done = await _write_until_killed(bench)
    bench.service.kill()
    if not done:
        return Verdict.not_run("no write was acknowledged in 10 s")
    await bench.start()
    verdict = await bench.survivors(done[-_LAST:], "SIGKILL")
    if verdict.word == "fail":
        bench.durable = False
    return verdict


async def _write_until_killed(bench: Bench) -> list[Written]:
    """Let 4 writers write, and kill all of it meanwhile; return what was acknowledged."""
    done: list[Written] = []
    stop = asyncio.Event()

    async def writer() -> None:
        while not stop.is_set():
            written = await bench.write(patience=5)
            if not written.answer.status:
                return
            if written.answer.good:
                done.append(written)
            else:
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group_:
        for _ in range(4):
            group_.create_task(writer())
        for _ in range(100):
            await asyncio.sleep(0.1)
            if len(done) >= _LAST:
                break
        bench.dirty = True
        bench.service.signal_all(signal.SIGKILL)
        stop.set()
    return done


@group("DATA-3", needs=("read", "write"))
async def _repeated(bench: Bench) -> Verdict:
    """Write the same twice under one key."""
    mark = bench.mark()
    first = await bench.write(mark, headers={"Idempotency-Key": mark})
    second = await bench.write(mark, headers={"Idempotency-Key": mark})
    if not first.answer.good:
        return Verdict.not_run(f"a write with an Idempotency-Key was answered {first.answer}")
    if second.answer.status in {409, 422}:
        return Verdict.passes(f"the repetition was refused with {second.answer.status}")
    same = second.answer.good and first.id == second.id and first.id != mark
    if not same and "{id}" not in bench.reading.path:
        count = (await bench.read()).text.count(mark)
        same = second.answer.good and count == 1
    if same:
        return Verdict.passes(f"both were answered with the id {first.id}")
    return Verdict.fails("the same write under one Idempotency-Key had two effects")
