"""Stress: the database is cut, silent, slow or not there yet.

Callers are too slow, too many, or one too often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from itertools import count
from operator import itemgetter
from statistics import median
from time import monotonic

from ...engine.client import Flood, Outcome, Response, closed_loop, encode, open_loop, slow_clients
from ..bench import HAS_PROC, Bench, together
from ..model import CheckResult, group

# In seconds: how long the database is cut, and silent; from when on an answer to silence must be
# quick; between two requests meanwhile; how long callers crowd the pool.
_CUT = 5.0
_SILENT = 8.0
_SETTLED = 6.0
_PERIOD = 0.15
_CROWD = 4.0
_Timed = tuple[float, Response]  # when it was due
_CLIENTS = 75  # slow ones, of each kind
_BESIDE = 60  # reads beside them
_PATIENCE = 35.0  # seconds, of slow clients
_SECONDS = 8.0  # of overload
_MOST_RATE = 500.0  # requests a second that the generator offers
_RATIONED = 80.0  # answers a second that a service is slowed down to
_STRANGER = "127.0.0.2" if HAS_PROC else ""  # other systems than Linux have one address alone


@group("DEP-2", "DEP-3", "DEP-4", "TIME-4", needs=("read", "database"), fresh=True, quick=False)
async def _outages(bench: Bench) -> Mapping[str, CheckResult]:
    link = bench.link
    writes = bench.spec.write is not None
    await link.stop()
    cut = await _ask_for(bench, _CUT)
    await link.heal()
    after_cut = await bench.recovers(3, within=20, patience=2, writes=writes)
    await link.freeze()
    silent = await _ask_for(bench, _SILENT, patience=32.0)
    await link.stop()  # what was silent is dropped, as by a router that comes back
    await link.heal()
    after_silence = await bench.recovers(3, within=20, patience=2, writes=writes)
    settled = [answer for due, answer in silent if due >= _SETTLED]
    return {
        "DEP-2": _unavailable(bench, cut),
        "DEP-3": _recovery(after_cut, after_silence),
        "DEP-4": _not_waited(settled),
        "TIME-4": _limited([answer for _, answer in silent]),
    }


async def _ask_for(bench: Bench, seconds: float, patience: float = 12.0) -> list[_Timed]:
    """Read and write in turn, one each 0.15 s, whether or not they are answered."""
    number = count()
    writes = bench.spec.write is not None

    async def send() -> Response:
        if writes and next(number) % 2:
            written = await bench.write(patience=patience)
            return written.answer
        return await bench.read(patience=patience)

    flood = await open_loop(send, rate=1 / _PERIOD, seconds=seconds)
    return sorted(flood.answers, key=itemgetter(0))


def _unavailable(bench: Bench, timed: list[_Timed]) -> CheckResult:
    """Judge the answers while the database was cut: 503 with Retry-After, or stale, and soon."""
    answers = [answer for _, answer in timed]
    total = len(answers)
    facts = [(round(due, 2), answer.status) for due, answer in timed]
    acknowledged = 0
    if bench.spec.write:
        acknowledged = sum(answer.good for answer in answers[1::2])
    if acknowledged and bench.durable is not False:
        evidence = f"{acknowledged} writes were acknowledged while the database was cut"
        return CheckResult.fails(evidence, cut=facts)
    if hung := sum(not answer.status for answer in answers):
        return CheckResult.fails(f"{hung} of {total} were not answered", cut=facts)
    refused = sum(answer.status == 503 and "retry-after" in answer.headers for answer in answers)
    stale = sum(answer.good for answer in answers) - acknowledged
    right = refused + stale
    slowest = max(answer.seconds for answer in answers)
    kinds = ", ".join(sorted({*map(str, answers)}))
    is_honest = all(answer.status >= 500 or answer.good for answer in answers)
    is_soon = slowest <= 1
    score = 0.5 if is_honest else 0.25
    if right == total and is_soon:
        score = 1.0
    evidence = (
        f"{right} of {total} were answered by 503 with Retry-After, or stale, within"
        f" {slowest:.1f} s ({kinds})"
    )
    return CheckResult.scored(score, evidence, sure=is_soon, cut=facts)


def _p95(answers: list[Response]) -> float:
    seconds = sorted(answer.seconds for answer in answers)
    place = int(0.95 * (len(answers) - 1))
    return seconds[place]


def _recovery(*after: float | None) -> CheckResult:
    cut, silence = ("never" if at is None else f"after {at:.1f} s" for at in after)
    worst = max(20.0 if at is None else at for at in after)
    evidence = f"good again {cut} of a cut, {silence} of silence"
    return CheckResult.within(worst, evidence, full=5, half=15)


def _not_waited(answers: list[Response]) -> CheckResult:
    if not answers:
        return CheckResult.not_run("too little was asked")
    p95 = _p95(answers)
    evidence = f"after {_SETTLED:g} s of silence, p95 was {p95:.2f} s"
    is_silent = not any(answer.status for answer in answers)
    sure = p95 >= 10 or is_silent
    return CheckResult.within(p95, evidence, full=1, half=3, sure=sure)


def _limited(answers: list[Response]) -> CheckResult:
    if unanswered := sum(not answer.status for answer in answers):
        total = len(answers)
        evidence = f"{unanswered} of {total} requests were not answered within 32 s of silence"
        return CheckResult.fails(evidence, sure=True)
    slowest = max(answer.seconds for answer in answers)
    evidence = f"with a silent database, the slowest answer took {slowest:.1f} s"
    return CheckResult.within(slowest, evidence, full=10, half=40)


@group("DEP-5", needs=("read", "database"), fresh=True, quick=False)
async def _pool(bench: Bench) -> CheckResult:
    """Judge how many connections a crowd of callers opens, beside what the pool may have."""
    link = bench.link
    most = bench.spec.database.max_connections if bench.spec.database else 0
    await link.delay(0.05)
    link.count_anew()
    flood = await closed_loop(lambda: bench.read(patience=15), callers=60, seconds=_CROWD)
    opened = link.opened
    at_once = link.most
    requests = max(len(flood.answers), 1)
    await link.heal()
    unexpected = {str(answer) for _, answer in flood.answers if not (answer.good or answer.refused)}
    evidence = (
        f"{at_once} connections at most for 60 callers, {opened} opened for {requests} requests;"
        f" {most} are allowed"
    )
    if at_once > 2 * most:
        return CheckResult.fails(evidence, sure=True)
    if unexpected:
        kinds = ", ".join(sorted(unexpected))
        return CheckResult.fails(f"{evidence}; answers were also {kinds}")
    is_pooled = at_once <= most and opened / requests < 0.3
    return CheckResult.scored(1.0 if is_pooled else 0.5, evidence)


@group("DEP-1", needs=("read", "database"), quick=False)
async def _absent(bench: Bench) -> CheckResult:
    """Start an instance without its database, which comes back after eight seconds."""
    await bench.link.stop()
    await bench.start(wait=False)
    bench.dirty = True
    began = monotonic()
    lived = False
    while (at := monotonic() - began) < 8:
        if not bench.service.is_running:
            await bench.link.heal()
            code = bench.service.code
            evidence = f"it ended after {at:.1f} s without its database, with code {code}"
            return CheckResult.fails(evidence, sure=True)
        if not lived and bench.spec.live:
            alive = await bench.call(bench.spec.live, patience=2)
            lived = alive.good
        await asyncio.sleep(0.1)
    await bench.link.heal()
    recovery = await bench.recovers(1, within=15, patience=2, pause=0.1)
    if recovery is None:
        score = 0.25 if lived else 0.0
        return CheckResult.scored(score, "it did not serve within 15 s of the database's return")
    liveness = "live" if lived else "not live"
    evidence = (
        f"it was {liveness} without its database, and served {recovery:.1f} s after its return"
    )
    return CheckResult.scored(1.0 if lived else 0.5, evidence)


@group("TIME-1", "TIME-2", "TIME-3", needs=("read",), fresh=True, quick=False)
async def _dripping(bench: Bench) -> Mapping[str, CheckResult] | CheckResult:
    long_headers = bench.headers({"X-Assess": "x" * 400})
    read_head = encode("GET", bench.read_path(), long_headers)
    write, body = bench.writing(bench.mark())
    length = len(body) + 400
    large = {"Content-Type": "application/json", "Content-Length": str(length)}
    write_head = encode(write.method, write.path, bench.headers(large))
    writers = _CLIENTS if bench.spec.write else 0
    headers, bodies, beside = await together(
        _drip(bench, b"", read_head, clients=_CLIENTS),
        _drip(bench, write_head, b" " * 400, clients=writers),
        _read_beside(bench),
    )
    if not bench.service.is_running:
        return CheckResult.fails(f"it died: code {bench.service.code}", sure=True)
    return {
        "TIME-1": _ended(headers, "headers"),
        "TIME-2": _ended(bodies, "bodies"),
        "TIME-3": _unharmed(beside, bench.calm),
    }


async def _drip(bench: Bench, first: bytes, remainder: bytes, *, clients: int) -> list[Response]:
    return await slow_clients(
        bench.connect,
        first,
        remainder,
        clients=clients,
        every=0.5,
        patience=_PATIENCE,
    )


async def _read_beside(bench: Bench) -> list[Response]:
    await asyncio.sleep(1.0)
    answers: list[Response] = []
    for _ in range(_BESIDE):
        answers.append(await bench.read(patience=5))
        await asyncio.sleep(0.04)
    return answers


def _ended(ends: list[Response], part: str) -> CheckResult:
    if not ends:
        return CheckResult.not_run("the service file names no write")
    seconds = [end.seconds for end in ends if end.outcome is not Outcome.TIMEOUT]
    total = len(ends)
    if left := total - len(seconds):
        evidence = (
            f"{left} of {total} clients with slow {part} were not ended within {_PATIENCE:.0f} s"
        )
        return CheckResult.fails(evidence, sure=not seconds)
    last = max(seconds)
    evidence = f"all {total} clients with slow {part} were ended within {last:.1f} s"
    score = 1.0 if last <= 30 else 0.5
    return CheckResult.scored(score, evidence, last=last)


def _unharmed(answers: list[Response], calm: float) -> CheckResult:
    failed = sum(not answer.good for answer in answers)
    p95 = _p95(answers)
    milliseconds = p95 * 1000
    evidence = f"{failed} of {len(answers)} reads beside them failed, p95 {milliseconds:.0f} ms"
    is_quick = p95 <= max(5 * calm, 0.5)
    score = 0.5 if failed <= 3 else 0.0
    if not failed and is_quick:
        score = 1.0
    return CheckResult.scored(score, evidence, p95=p95)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is asked of it and what it could answer, a second.

    How soon it must, and how long one caller alone waits.
    """

    rate: float
    possible: float
    within: float
    alone: float = 0.0


@group("LOAD-1", "LOAD-2", "LOAD-3", "HLTH-3", needs=("read", "proc"), fresh=True, quick=False)
async def _overload(bench: Bench) -> Mapping[str, CheckResult] | CheckResult:
    """Offer several times what can be served, and judge answers, refusals and recovery."""
    async with AsyncExitStack() as stack:
        plan = await _make_slow(bench, stack)
        if isinstance(plan, CheckResult):
            return plan
        memory = bench.service.memory()
        async with asyncio.TaskGroup() as tasks:
            probes = tasks.create_task(_probe(bench))
            patience = max(4, 2 * plan.within)
            flood = await open_loop(
                lambda: bench.read(patience=patience), rate=plan.rate, seconds=_SECONDS
            )
        grown = bench.service.memory() - memory
        # Five reads in a row take their time even of a service that is well.
        five_reads = 5 * plan.alone
        after = await bench.recovers(5, within=12 + five_reads, patience=3 + plan.alone)
    if after is not None:
        after = max(0.0, after - five_reads)
    await bench.heal()
    late = flood.lateness
    if late > 0.8 * float(bench.shared["busy"]):
        return CheckResult.not_run(f"the machine is too busy: the generator was {late:.1f} s late")
    results = {
        "LOAD-1": _goodput(flood, plan),
        "LOAD-2": _refusals(flood, plan),
        "LOAD-3": _well(bench, after, grown),
        "HLTH-3": _probed(bench, probes.result()),
    }
    if results["LOAD-2"].score > 0 or any(answer.refused for _, answer in flood.answers):
        return results
    # That many wait, and no one is refused, does not come of a busy machine.
    for name, result in results.items():
        facts = {**result.facts, "sure": True}
        results[name] = replace(result, facts=facts)
    return results


async def _make_slow(bench: Bench, stack: AsyncExitStack) -> _Plan | CheckResult:
    """Slow the service down by its database or its processor, until the generator can overload it.

    Return the plan of the overload, or a result if there is none.
    """
    if bench.spec.database and bench.durable is not False:
        await bench.link.delay(0.4)
        # A service that crosses the slow link several times answers no one sooner.
        reads = [await bench.read(patience=8) for _ in range(3)]
        alone = median(read.seconds for read in reads)
        capacity = await _capacity(bench)
        if capacity > _MOST_RATE / 2:
            return CheckResult.not_run(
                f"{capacity:.0f} reads a second do not need the slow database"
            )
        if not capacity:
            return CheckResult.not_run("nothing was served while the database was slow")
        return _Plan(
            rate=min(5 * capacity, _MOST_RATE),
            possible=capacity,
            within=max(1.0, 2 * alone),
            alone=alone,
        )
    full = await _capacity(bench, callers=16, seconds=1.5)
    ration = _RATIONED / max(full, 1)
    share = min(1.0, max(0.03, ration))
    await stack.enter_async_context(bench.service.rationed(share))
    capacity = await _capacity(bench, callers=8)
    nothing = await _capacity(bench, callers=8, nothing=True)
    # The seconds that a refusal costs, and an answer: both come out of one second.
    refusal = 1 / max(nothing, capacity * 1.001)
    for factor in (5, 3, 2):
        possible = 0.0
        if capacity:
            possible = (1 - factor * capacity * refusal) / (1 / capacity - refusal)
        if possible >= capacity / 2:
            return _Plan(
                rate=min(factor * capacity, _MOST_RATE),
                possible=min(possible, capacity),
                within=0.5,
            )
    return CheckResult.not_applicable(
        "a refusal costs as much as an answer, so that shedding would have no point"
    )


async def _capacity(
    bench: Bench,
    callers: int = 48,
    seconds: float = 3.0,
    *,
    nothing: bool = False,
) -> float:
    async def ask() -> Response:
        if nothing:
            return await bench.call("/assess-nothing", patience=8)
        return await bench.read(patience=8)

    flood = await closed_loop(ask, callers=callers, seconds=seconds)
    answers = [answer for _, answer in flood.answers]
    answered = sum(answer.good or (nothing and answer.status > 0) for answer in answers)
    return answered / flood.seconds


async def _probe(bench: Bench) -> list[bool]:
    answers = list[bool]()
    began = monotonic()
    while bench.spec.live and monotonic() - began < _SECONDS:
        answer = await bench.call(bench.spec.live, patience=2)
        answers.append(answer.good and answer.seconds <= 1)
        await asyncio.sleep(0.25)
    return answers


def _goodput(flood: Flood, plan: _Plan) -> CheckResult:
    possible = plan.possible * _SECONDS
    share = flood.good(plan.within) / possible
    later = flood.good(2 * plan.within) / possible
    score = 0.5 if later >= 0.5 else 0.0
    if share >= 0.8:
        score = 1.0
    elif share >= 0.5:
        score = 0.75
    evidence = (
        f"at {plan.rate:.0f} requests a second, {100 * share:.0f} % of the possible"
        f" {plan.possible:.0f} were served in time"
    )
    return CheckResult.scored(
        score,
        evidence,
        offered=plan.rate,
        possible=plan.possible,
        good=flood.good(plan.within) / _SECONDS,
    )


def _refusals(flood: Flood, plan: _Plan) -> CheckResult:
    """Judge whether what is not served is refused soon, with Retry-After."""
    total = len(flood.answers)
    unserved = [answer for _, answer in flood.answers if not answer.good]
    count = len(unserved)
    if count < 0.1 * total:
        slow = sum(answer.seconds > 2 * plan.within for _, answer in flood.answers)
        evidence = f"{count} were refused, {slow} waited"
        return CheckResult.holds(slow <= total / 4, evidence)
    polite = sum(
        answer.refused and answer.seconds <= 0.6 and "retry-after" in answer.headers
        for answer in unserved
    )
    share = polite / count
    evidence = (
        f"{polite} of {count} that were not served got 429 or 503 with Retry-After within 0.6 s"
    )
    score = 0.5 if share >= 0.5 else 0.0
    if share >= 0.95:
        score = 1.0
    return CheckResult.scored(score, evidence)


def _well(bench: Bench, after: float | None, grown: int) -> CheckResult:
    if not bench.service.is_running:
        return CheckResult.fails("it died")
    if after is None:
        return CheckResult.fails("it was not well within 12 s of the end of the load")
    mebibytes = max(grown, 0) // 2**20
    evidence = (
        f"five good answers in a row {after:.1f} s after the load; memory grew by {mebibytes} MiB"
    )
    is_well = after <= 5 and grown <= 100 * 2**20
    score = 1.0 if is_well else 0.5
    return CheckResult.scored(score, evidence, memory=grown)


def _probed(bench: Bench, answers: list[bool]) -> CheckResult:
    if not answers:
        return CheckResult.fails("no probe was found", sure=True)
    good = sum(answers)
    count = len(answers)
    evidence = (
        f"{good} of {count} probes of {bench.spec.live} were answered within 1 s under overload"
    )
    return CheckResult.share(good, count, evidence)


@group("RATE-1", needs=("read",), deployed=True)
async def _rate_limit(bench: Bench) -> CheckResult:
    """Send from one address until it is refused, then try to evade that by a header."""
    # Servers trust what a proxy on 127.0.0.1 says of its callers; a stranger has another address.
    bench.dirty = True
    bench.source = _STRANGER
    refused: list[Response] = []
    sent = 0
    began = monotonic()
    while not refused and sent < 1500 and monotonic() - began < 40:
        answers = await together(*(bench.read() for _ in range(10)))
        refused = [answer for answer in answers if answer.status == 429]
        sent += 10
    if not refused:
        evidence = f"{sent} requests of one caller, and none was refused with 429"
        if sent < 1000:
            return CheckResult.not_run(f"{evidence}: too few in 40 s")
        return CheckResult.fails(evidence)
    plain = 0
    forwarded = 0
    for number in range(1, 16):  # in turn, since some are let in as time goes by
        plain += (await bench.read()).status == 429
        headers = {"X-Forwarded-For": f"203.0.113.{number}"}
        forwarded += (await bench.read(headers=headers)).status == 429
    evaded = forwarded < plain / 2
    hinted = "retry-after" in refused[0].headers
    evidence = f"refused after {sent} requests"
    if evaded:
        evidence += "; evaded by X-Forwarded-For"
    elif not hinted:
        evidence += "; without Retry-After"
    return CheckResult.scored(1.0 if hinted and not evaded else 0.5, evidence)
