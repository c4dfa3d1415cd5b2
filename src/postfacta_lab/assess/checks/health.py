"""Health: two probes that mean two things."""

from __future__ import annotations

import asyncio
from time import monotonic

from ..bench import Bench
from ..groups import group
from ..link import Link
from ..model import Verdict


@group("HLTH-1")
async def _two_paths(bench: Bench) -> Verdict:
    """Look for two probes."""
    live, ready = bench.spec.live, bench.spec.ready
    if live and ready and live != ready:
        return Verdict.scored(1.0, f"{live} and {ready}")
    if live or ready:
        return Verdict.scored(0.5, f"{live or ready} alone")
    return Verdict.scored(0.0, "no probe was found")


@group("HLTH-2", needs=("read",), quick=False)
async def _readiness(bench: Bench) -> Verdict:
    """Cut the database, and watch both probes; without one, readiness at SIGTERM counts."""
    live, ready = bench.spec.live, bench.spec.ready
    if not ready:
        return Verdict.fails("no readiness probe was found", sure=True)
    if live == ready:
        return Verdict.scored(0.5, f"{ready} is both, so that one meaning is lost")
    return _at_sigterm(bench) if bench.link is None else await _through_a_cut(bench, bench.link)


def _at_sigterm(bench: Bench) -> Verdict:
    statuses: list[int] = bench.shared.get("ready_at_sigterm", [])
    if not statuses:
        return Verdict.not_run("readiness at SIGTERM was not seen")
    said = ", ".join(str(status or "nothing") for status in dict.fromkeys(statuses))
    return Verdict.holds(503 in statuses, f"after SIGTERM {bench.spec.ready} said {said}")


async def _through_a_cut(bench: Bench, link: Link) -> Verdict:
    live, ready = bench.spec.live, bench.spec.ready
    await link.stop()
    fell, lived = await _watch(bench, falls=True)
    await link.heal()
    if fell is None:
        return Verdict.fails(f"{ready} did not fall within 30 s of the database's loss")
    if not lived:
        return Verdict.fails(f"{live} failed too: the platform would restart it for its database's loss")
    rose, _ = await _watch(bench, falls=False)
    rises = "rose again" if rose is not None else "did not rise again"
    return Verdict.holds(rose is not None, f"{ready} fell after {fell:.1f} s and {rises}", fell=fell)


async def _watch(bench: Bench, *, falls: bool) -> tuple[float | None, bool]:
    """Return after how long readiness was as awaited, and whether it lived all the while."""
    began, lived = monotonic(), True
    while (at := monotonic() - began) < 30:
        lived = lived and (await bench.call(bench.spec.live, patience=3)).good
        status = (await bench.call(bench.spec.ready, patience=3)).status
        if (status == 503) if falls else (200 <= status < 300):
            return at, lived
        await asyncio.sleep(0.2)
    return None, lived
