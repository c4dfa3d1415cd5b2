"""Overload: more is asked than can be done; and one caller asks too often."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from statistics import median
from time import monotonic

from ...engine.client import Answer
from ...engine.loops import Flood, closed_loop, open_loop
from ..bench import Bench
from ..groups import group
from ..model import Verdict
from ..service import HAS_PROC

_SECONDS, _MOST_RATE, _RATIONED = 8.0, 500.0, 80.0
_SOON, _ENOUGH, _GROWTH = 0.6, 1000, 100 * 2**20
_STRANGER = "127.0.0.2" if HAS_PROC else ""  # other systems than Linux have one address alone


@dataclass(frozen=True, slots=True)
class _Plan:
    rate: float
    possible: float
    within: float
    alone: float = 0.0


@group("LOAD-1", "LOAD-2", "LOAD-3", "HLTH-3", needs=("read", "proc"), fresh=True, quick=False)
async def _overload(bench: Bench) -> Mapping[str, Verdict] | Verdict:
    """Make it slow, find what it can do, and ask for more."""
    async with AsyncExitStack() as stack:
        plan = await _make_slow(bench, stack)
        if isinstance(plan, Verdict):
            return plan
        memory = bench.service.memory()
        async with asyncio.TaskGroup() as group_:
            probes = group_.create_task(_probe(bench))
            patience = max(4, 2 * plan.within)
            flood = await open_loop(lambda: bench.read(patience=patience), rate=plan.rate, seconds=_SECONDS)
        grown = bench.service.memory() - memory
        after = await bench.recovers(5, within=12 + 5 * plan.alone, patience=3 + plan.alone)
    if bench.link is not None:
        await bench.link.heal()
    if flood.lateness > 0.8 * float(bench.shared["busy"]):
        return Verdict.not_run(f"the machine is too busy: the generator was {flood.lateness:.1f} s late")
    verdicts = {
        "LOAD-1": _goodput(flood, plan),
        "LOAD-2": _refusals(flood, plan),
        "LOAD-3": _well(bench, None if after is None else max(0.0, after - 5 * plan.alone), grown),
        "HLTH-3": _probed(bench, probes.result()),
    }
    if verdicts["LOAD-2"].score > 0 or any(answer.refused for _, answer in flood.answers):
        return verdicts
    # That many wait, and no one is refused, does not come of a busy machine.
    return {name: replace(it, facts={**it.facts, "sure": True}) for name, it in verdicts.items()}


async def _make_slow(bench: Bench, stack: AsyncExitStack) -> _Plan | Verdict:
    if bench.link is not None and bench.durable is not False:
        await bench.link.delay(0.4)
        # A service that crosses the slow link several times answers no one sooner.
        alone = median([(await bench.read(patience=8)).seconds for _ in range(3)])
        capacity = await _capacity(bench)
        if capacity > _MOST_RATE / 2:
            return Verdict.not_run(f"{capacity:.0f} reads a second do not need the slow database")
        if not capacity:
            return Verdict.not_run("nothing was served while the database was slow")
        return _Plan(min(5 * capacity, _MOST_RATE), capacity, max(1.0, 2 * alone), alone)
    full = await _capacity(bench, callers=16, seconds=1.5)
    await stack.enter_async_context(bench.service.rationed(min(1.0, max(0.03, _RATIONED / max(full, 1)))))
    capacity, nothing = await _capacity(bench, callers=8), await _capacity(bench, callers=8, nothing=True)
    for factor in (5, 3, 2):
        refused = 1 / max(nothing, capacity * 1.001)
        possible = (1 - factor * capacity * refused) / (1 / capacity - refused) if capacity else 0.0
        if possible >= capacity / 2:
            return _Plan(min(factor * capacity, _MOST_RATE), min(possible, capacity), 0.5)
    return Verdict.not_applicable(
        "a refusal costs it as much as an answer, so that shedding would have no point"
    )


async def _capacity(bench: Bench, callers: int = 48, seconds: float = 3.0, *, nothing: bool = False) -> float:
    async def ask() -> Answer:
        return await (bench.call("/assess-nothing", patience=8) if nothing else bench.read(patience=8))

    flood = await closed_loop(ask, callers=callers, seconds=seconds)
    answered = sum(answer.good or (nothing and answer.status > 0) for _, answer in flood.answers)
    return answered / flood.seconds


async def _probe(bench: Bench) -> list[bool]:
    """Ask for liveness, four times a second."""
    answers, began = list[bool](), monotonic()
    while bench.spec.live and monotonic() - began < _SECONDS:
        answer = await bench.call(bench.spec.live, patience=2)
        answers.append(answer.good and answer.seconds <= 1)
        await asyncio.sleep(0.25)
    return answers


def _goodput(flood: Flood, plan: _Plan) -> Verdict:
    possible = plan.possible * _SECONDS
    share, later = flood.good(plan.within) / possible, flood.good(2 * plan.within) / possible
    score = 1.0 if share >= 0.8 else 0.75 if share >= 0.5 else 0.5 if later >= 0.5 else 0.0
    said = f"at {plan.rate:.0f} requests a second, {100 * share:.0f} % of the possible {plan.possible:.0f} were served in time"
    good = flood.good(plan.within) / _SECONDS
    return Verdict.scored(score, said, offered=plan.rate, possible=plan.possible, good=good)


def _refusals(flood: Flood, plan: _Plan) -> Verdict:
    others = [answer for _, answer in flood.answers if not answer.good]
    if len(others) < 0.1 * len(flood.answers):
        slow = sum(answer.seconds > 2 * plan.within for _, answer in flood.answers)
        return Verdict.scored(
            0.0 if slow > len(flood.answers) / 4 else 1.0, f"{len(others)} were refused, {slow} waited"
        )
    polite = sum(it.refused and it.seconds <= _SOON and "retry-after" in it.headers for it in others)
    share = polite / len(others)
    score = 1.0 if share >= 0.95 else 0.5 if share >= 0.5 else 0.0
    return Verdict.scored(
        score, f"{polite} of {len(others)} that were not served got 429 or 503 with Retry-After within 0.6 s"
    )


def _well(bench: Bench, after: float | None, grown: int) -> Verdict:
    if not bench.service.is_running:
        return Verdict.scored(0.0, "it died")
    if after is None:
        return Verdict.scored(0.0, "it was not well within 12 s of the end of the load")
    evidence = f"five good answers in a row {after:.1f} s after the load; memory grew by {max(grown, 0) // 2**20} MiB"
    return Verdict.scored(1.0 if after <= 5 and grown <= _GROWTH else 0.5, evidence, memory=grown)


def _probed(bench: Bench, answers: list[bool]) -> Verdict:
    if not answers:
        return Verdict.fails("no probe was found", sure=True)
    good = sum(answers)
    return Verdict.share(
        good,
        len(answers),
        f"{good} of {len(answers)} probes of {bench.spec.live} were answered within 1 s under overload",
    )


@group("RATE-1", needs=("read",), deployed=True, quick=True)
async def _limited(bench: Bench) -> Verdict:
    """Ask as one caller until it is refused; then pretend to be others."""
    # Servers trust what a proxy on 127.0.0.1 says of its callers; a stranger has another address.
    bench.dirty, bench.source = True, _STRANGER
    first: Answer | None = None
    sent, began = 0, monotonic()
    while sent < 1500 and first is None and monotonic() - began < 40:
        async with asyncio.TaskGroup() as group_:
            tasks = [group_.create_task(bench.read()) for _ in range(10)]
        sent += len(tasks)
        first = next((task.result() for task in tasks if task.result().status == 429), None)
    if first is None:
        said = f"{sent} requests of one caller, and none was refused with 429"
        return Verdict.fails(said) if sent >= _ENOUGH else Verdict.not_run(f"{said}: too few in 40 s")
    plain = others = 0
    for number in range(15):  # in turn, since some are let in as time goes by
        plain += (await bench.read()).status == 429
        others += (await bench.read(headers={"X-Forwarded-For": f"203.0.113.{number + 1}"})).status == 429
    evaded = others < plain / 2
    hinted = "retry-after" in first.headers
    said = "; evaded by X-Forwarded-For" if evaded else "" if hinted else "; without Retry-After"
    return Verdict.scored(1.0 if hinted and not evaded else 0.5, f"refused after {sent} requests{said}")
