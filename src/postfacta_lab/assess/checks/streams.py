"""Answers that take long on purpose: how they end at a stop, and what they take from others."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ...engine.client import PartialRequest, Response, encode
from ..bench import Bench
from ..model import CheckResult, group

_PATIENCE = 30.0  # Seconds for a whole stream.
_SETTLED = 3.0  # Seconds after which a stream that has no head yet waits for others.
_OPEN = 4
_READS = 20
# A line of an event stream after which a client comes back: HTML, 9.2.6.
_RESUMES = b"retry:"


@dataclass(slots=True)
class _Stream:
    """A stream that is read in a task; `begun` is set as its head comes."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    answer: Response = field(default_factory=Response)

    async def read(self, bench: Bench, patience: float) -> None:
        stream, body = bench.streaming()
        headers = bench.headers({"Accept": "text/event-stream, */*", **stream.headers})
        request = encode(stream.method, stream.path, headers, body=body)
        partial = await PartialRequest.begin(bench.service.port, request, method=stream.method)
        self.answer = await partial.finish(patience, begun=self.begun.set)
        self.begun.set()


@asynccontextmanager
async def _streams(bench: Bench, count: int) -> AsyncGenerator[list[_Stream]]:
    """Open streams, and leave what has not ended after the block."""
    streams = [_Stream() for _ in range(count)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stream.read(bench, _PATIENCE)) for stream in streams]
        heads = [group.create_task(stream.begun.wait()) for stream in streams]
        await asyncio.wait(heads, timeout=_SETTLED)
        yield streams
        for task in (*tasks, *heads):
            task.cancel()


@group("STRM-1", needs=("stream",), fresh=True)
async def _stopped(bench: Bench) -> CheckResult:
    """End an instance by SIGTERM in the middle of streams, and look at how each of them ends."""
    whole = _Stream()
    ends = bench.streaming()[0].ends.encode()
    if ends:
        await whole.read(bench, _PATIENCE)
        if not (whole.answer.good and ends in whole.answer.body):
            return CheckResult.not_run(f"a stream without a stop was no whole one: {whole.answer}")
    async with _streams(bench, _OPEN) as streams:
        await asyncio.sleep(0.3)
        bench.service.deliver(signal.SIGTERM)
        grace = asyncio.timeout(bench.spec.grace)
        try:
            async with grace:
                while not all(stream.answer.seconds for stream in streams):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            return CheckResult.fails(f"a stream was open {bench.spec.grace:g} s after SIGTERM")
    return ended(ends, [stream.answer for stream in streams])


def ended(ends: bytes, answers: list[Response]) -> CheckResult:
    """Judge how streams ended at a stop; `ends` is empty if they have no end."""
    refused = [answer for answer in answers if answer.status and not answer.good]
    if refused:
        return CheckResult.not_run(f"a stream was answered {refused[0]}")
    closed = [answer.body for answer in answers if answer.good]
    in_order = sum(bool(ends and ends in body) or _RESUMES in body[-200:] for body in closed)
    cut = len(answers) - len(closed)
    if deceptive := len(closed) - in_order:
        return CheckResult.fails(f"{deceptive} of {_OPEN} streams were cut, and ended as if whole")
    evidence = f"{in_order} of {_OPEN} streams ended in order after SIGTERM, {cut} visibly cut"
    return CheckResult.share(2 * in_order + cut, 2 * _OPEN, evidence)


@group("STRM-3", needs=("stream", "read", "database"), fresh=True, quick=False)
async def _many(bench: Bench) -> CheckResult:
    """Read while twice as many streams are open as the pool may have connections."""
    count = 2 * bench.spec.database.max_connections if bench.spec.database else 0
    async with _streams(bench, count) as streams:
        answers = [await bench.read(patience=2) for _ in range(_READS)]
        refused = sum(stream.answer.status >= 400 for stream in streams)
    accepted = count - refused
    if 2 * accepted < count:
        return CheckResult.not_run(f"only {accepted} of {count} streams were accepted")
    good = sum(answer.good for answer in answers)
    evidence = f"{good} of {_READS} reads were good beside {accepted} streams"
    return CheckResult.share(good, _READS, evidence)
