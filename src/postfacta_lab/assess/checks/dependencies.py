"""Dependencies: the database is cut, silent, slow or not there yet."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import count
from operator import itemgetter
from time import monotonic
from typing import Any

from ...engine.client import Answer
from ...engine.loops import closed_loop, open_loop
from ..bench import Bench
from ..groups import group
from ..link import Link
from ..model import Verdict

_CUT, _SILENT, _SETTLED, _EACH = 5.0, 8.0, 6.0, 0.15
_CROWD = 4.0
_Asked = tuple[float, str, Answer]  # when it was due, whether it reads or writes


def _link(bench: Bench) -> Link:
    if bench.link is None:
        raise RuntimeError("no database is named")
    return bench.link


@group("DEP-2", "DEP-3", "DEP-4", "TIME-4", needs=("read", "database"), fresh=True, quick=False)
async def _outages(bench: Bench) -> Mapping[str, Verdict]:
    """Cut the database and let it come back; then silence it, and again."""
    link = _link(bench)
    await link.stop()
    cut = await _ask_for(bench, _CUT)
    await link.heal()
    after_cut = await bench.recovers(3, within=20, patience=2, writes=bench.spec.write is not None)
    await link.freeze()
    first = await _ask_for(bench, _SILENT, patience=32.0)
    settled = [answer for at, _, answer in first if at >= _SETTLED]
    await link.stop()  # what was silent is dropped, as by a router that comes back
    await link.heal()
    after_silence = await bench.recovers(3, within=20, patience=2, writes=bench.spec.write is not None)
    return {
        "DEP-2": _unavailable(bench, cut),
        "DEP-3": _recovery(after_cut, after_silence),
        "DEP-4": _not_waited(settled),
        "TIME-4": _limited([answer for _, _, answer in first]),
    }


async def _ask_for(bench: Bench, seconds: float, patience: float = 12.0) -> list[_Asked]:
    """Read and write, one each 0.15 s, whether or not they are answered."""
    number = count()
    writes = bench.spec.write is not None

    async def one() -> Answer:
        if writes and next(number) % 2:
            return (await bench.write(patience=patience)).answer
        return await bench.read(patience=patience)

    flood = await open_loop(one, rate=1 / _EACH, seconds=seconds)
    return [
        (due, "write" if writes and place % 2 else "read", answer)
        for place, (due, answer) in enumerate(sorted(flood.answers, key=itemgetter(0)))
    ]


def _unavailable(bench: Bench, asked: list[_Asked]) -> Verdict:
    answers = [(kind, answer) for _, kind, answer in asked]
    acknowledged = sum(kind == "write" and answer.good for kind, answer in answers)
    hung = sum(not answer.status for _, answer in answers)
    right = [_is_right(kind, answer) for kind, answer in answers]
    slowest = max(answer.seconds for _, answer in answers)
    seen = ", ".join(sorted({str(answer) for _, answer in answers}))
    facts: dict[str, Any] = {"cut": [(round(due, 2), answer.status) for due, _, answer in asked]}
    evidence = f"{sum(right)} of {len(right)} were answered by 503 with Retry-After, or stale, within {slowest:.1f} s ({seen})"
    if acknowledged and bench.durable is not False:
        return Verdict.scored(
            0.0, f"{acknowledged} writes were acknowledged while the database was cut", **facts
        )
    if hung:
        return Verdict.scored(0.0, f"{hung} of {len(answers)} were not answered", **facts)
    mostly = all(answer.status >= 500 or answer.good for _, answer in answers)
    score = 1.0 if all(right) and slowest <= 1 else 0.5 if mostly else 0.25
    return Verdict.scored(score, evidence, sure=slowest <= 1, **facts)


def _is_right(kind: str, answer: Answer) -> bool:
    return (answer.status == 503 and "retry-after" in answer.headers) or (kind == "read" and answer.good)


def _recovery(*after: float | None) -> Verdict:
    times = [
        f"{what} {f'{at:.1f} s' if at is not None else 'never'}"
        for what, at in zip(("cut", "silence"), after, strict=True)
    ]
    worst = max(20.0 if at is None else at for at in after)
    return Verdict.within(worst, f"good again after a {', after '.join(times)}", full=5, half=15)


def _not_waited(answers: list[Answer]) -> Verdict:
    if not answers:
        return Verdict.not_run("too little was asked")
    p95 = sorted(answer.seconds for answer in answers)[int(0.95 * (len(answers) - 1))]
    said = f"after {_SETTLED:g} s of silence, p95 was {p95:.2f} s"
    return Verdict.within(p95, said, full=1, half=3, sure=p95 >= 10 or not any(it.status for it in answers))


def _limited(answers: list[Answer]) -> Verdict:
    unanswered = sum(not answer.status for answer in answers)
    slowest = max(answer.seconds for answer in answers)
    if unanswered:
        said = f"{unanswered} of {len(answers)} requests were not answered within 32 s of silence"
        return Verdict.fails(said, sure=True)
    return Verdict.within(
        slowest, f"with a silent database, the slowest answer took {slowest:.1f} s", full=10, half=40
    )


@group("DEP-5", needs=("read", "database"), fresh=True, quick=False)
async def _pool(bench: Bench) -> Verdict:
    """Let 60 callers ask while the database is a little slow."""
    link, most = _link(bench), bench.spec.database.max_connections if bench.spec.database else 0
    await link.delay(0.05)
    link.count_anew()
    flood = await closed_loop(lambda: bench.read(patience=15), callers=60, seconds=_CROWD)
    opened, at_once = link.opened, link.most
    await link.heal()
    odd = sorted({str(answer) for _, answer in flood.answers if not (answer.good or answer.refused)})
    asked = max(len(flood.answers), 1)
    evidence = f"{at_once} connections at most for 60 callers, {opened} opened for {asked} requests"
    if at_once > 2 * most:
        return Verdict.scored(0.0, f"{evidence}; {most} are allowed", sure=True)
    if odd:
        return Verdict.scored(0.0, f"{evidence}; answers were also {', '.join(odd)}")
    if at_once <= most and opened / asked < 0.3:
        return Verdict.scored(1.0, evidence)
    return Verdict.scored(0.5, f"{evidence}; {most} are allowed")


@group("DEP-1", needs=("read", "database"), quick=False)
async def _absent(bench: Bench) -> Verdict:
    """Start it with the database cut."""
    link = _link(bench)
    await link.stop()
    await bench.start(wait=False)
    bench.dirty = True
    began, lived = monotonic(), False
    while (at := monotonic() - began) < 8:
        if not bench.service.is_running:
            await link.heal()
            said = f"it ended after {at:.1f} s without its database, with code {bench.service.code}"
            return Verdict.scored(0.0, said, sure=True)
        lived = lived or (bench.spec.live != "" and (await bench.call(bench.spec.live, patience=2)).good)
        await asyncio.sleep(0.1)
    await link.heal()
    back = monotonic()
    while (took := monotonic() - back) < 15:
        if (await bench.read(patience=2)).good:
            said = "was live" if lived else "was not live"
            return Verdict.scored(
                1.0 if lived else 0.5,
                f"it {said} without its database, and served {took:.1f} s after its return",
            )
        await asyncio.sleep(0.1)
    return Verdict.scored(0.25 if lived else 0.0, "it did not serve within 15 s of the database's return")
