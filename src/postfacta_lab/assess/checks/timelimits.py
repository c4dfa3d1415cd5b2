"""Time limits: clients that send a byte now or then, and the others beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping

from ...engine.client import Answer, Outcome, encode
from ...engine.loops import slow_clients
from ..bench import Bench
from ..groups import group
from ..model import Verdict

_CLIENTS, _BESIDE = 75, 60
_PASS, _PATIENCE = 30.0, 35.0
_EACH = 0.5


@group("TIME-1", "TIME-2", "TIME-3", needs=("read",), fresh=True, quick=False)
async def _dripping(bench: Bench) -> Mapping[str, Verdict] | Verdict:
    """Drip headers and bodies from 150 clients, and read beside them."""
    head = encode("GET", bench.read_path(), bench.headers({"X-Assess": "x" * 400}))
    write, body = bench.writing(bench.mark())
    whole = encode(
        write.method,
        write.path,
        bench.headers({"Content-Type": "application/json", "Content-Length": str(len(body) + 400)}),
    )
    async with asyncio.TaskGroup() as group_:
        headers = group_.create_task(_drip(bench, b"", head))
        bodies = group_.create_task(_drip(bench, whole, b" " * 400)) if bench.spec.write else None
        beside = group_.create_task(_read_beside(bench))
    if not bench.service.is_running:
        return Verdict.fails(f"it died: code {bench.service.code}", sure=True)
    return {
        "TIME-1": _ended(headers.result(), "headers"),
        "TIME-2": _ended(bodies.result(), "bodies")
        if bodies
        else Verdict.not_run("no [write] in the service file"),
        "TIME-3": _unharmed(beside.result(), bench.calm),
    }


def _drip(bench: Bench, first: bytes, rest: bytes) -> Coroutine[None, None, list[Answer]]:
    return slow_clients(bench.connect, first, rest, clients=_CLIENTS, every=_EACH, patience=_PATIENCE)


async def _read_beside(bench: Bench) -> list[Answer]:
    await asyncio.sleep(1.0)
    answers: list[Answer] = []
    for _ in range(_BESIDE):
        answers.append(await bench.read(patience=5))
        await asyncio.sleep(0.04)
    return answers


def _ended(ends: list[Answer], what: str) -> Verdict:
    known = [end.seconds for end in ends if end.outcome is not Outcome.TIMEOUT]
    if len(known) < len(ends):
        return Verdict.scored(
            0.0,
            f"{len(ends) - len(known)} of {len(ends)} clients with slow {what} were not ended within {_PATIENCE:.0f} s",
            sure=not known,
        )
    last = max(known)
    return Verdict.scored(
        1.0 if last <= _PASS else 0.5,
        f"all {len(ends)} clients with slow {what} were ended within {last:.1f} s",
        last=last,
    )


def _unharmed(answers: list[Answer], calm: float) -> Verdict:
    failed = sum(not answer.good for answer in answers)
    p95 = sorted(answer.seconds for answer in answers)[int(0.95 * (len(answers) - 1))]
    evidence = f"{failed} of {len(answers)} reads beside them failed, p95 {p95 * 1000:.0f} ms"
    quick = p95 <= max(5 * calm, 0.5)
    return Verdict.scored(1.0 if not failed and quick else 0.5 if failed <= 3 else 0.0, evidence, p95=p95)
