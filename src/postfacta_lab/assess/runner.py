"""Runs the checks in order, each on a service that is well, and writes down what they found."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any, cast

from ..engine.client import Response
from ..engine.processes import Waited
from ..engine.variables import Environment
from .bench import HAS_PROC, Bench, NotServingError
from .checks import GROUPS
from .model import CheckResult, Entry, Group, Outcome, rubric
from .spec import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to run: `only` are prefixes of ids; `within` bounds all of it, in seconds."""

    quick: bool = False
    only: tuple[str, ...] = ()
    within: float = 240.0
    keep: Path | None = None
    busy: float = 0.5  # the most that we may wait, or others may have of the machine


@dataclass(slots=True)
class Run:
    """All that was found."""

    name: str
    results: dict[str, CheckResult] = field(default_factory=dict[str, CheckResult])
    own_entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    machine: Mapping[str, float] = field(default_factory=dict[str, float])
    seconds: float = 0.0


async def run(
    spec: Spec,
    environment: Environment,
    options: Options,
    *,
    on_result: Callable[[str, CheckResult], object] = lambda _name, _result: None,
) -> Run:
    """Assess a service. Raise `NotServingError` if there is nothing to assess."""
    with tempfile.TemporaryDirectory(prefix="assess-") as folder:
        bench = Bench(spec, options.keep or Path(folder), environment)
        runner = _Runner(bench, options, on_result)
        async with bench.opened():
            return await runner.measure_all()


class _Runner:
    def __init__(
        self,
        bench: Bench,
        options: Options,
        on_result: Callable[[str, CheckResult], object],
    ) -> None:
        self._bench = bench
        self._options = options
        self._on_result = on_result
        self._run = Run(bench.spec.name)
        self._began = monotonic()
        bench.shared["busy"] = options.busy

    async def measure_all(self) -> Run:
        waited = Waited()
        bench = self._bench
        result = self._run
        await bench.start()
        await self._floor()
        await bench.guess()
        for group in GROUPS:
            await self._group(group)
        result.machine = waited.state()
        result.seconds = monotonic() - self._began
        return result

    async def _floor(self) -> None:
        """Demand that the read and the write of the file are answered."""
        spec = self._bench.spec
        if spec.write is not None:
            written = await self._bench.write()
            _demand("write", written.answer)
        if spec.read is not None:
            seconds: list[float] = []
            for _ in range(11):
                answer = await self._bench.read()
                _demand("read", answer)
                seconds.append(answer.seconds)
            self._bench.calm = median(seconds)

    async def _group(self, group: Group) -> None:
        declared = self._bench.spec.declared
        prefixes = self._options.only or ""
        chosen = [name for name in group.ids if name.startswith(prefixes)]
        for name in chosen:
            if group.own_entry is not None:
                self._run.own_entries[name] = group.own_entry
            if name in declared:
                self._keep(name, CheckResult(Outcome.DECLARED, evidence=declared[name]))
        names = [name for name in chosen if name not in declared]
        if names and (missing := self._missing(group)):
            for name in names:
                self._keep(name, missing)
        elif names:
            await self._measure(group, names)

    def _missing(self, group: Group) -> CheckResult | None:
        """Return why a group cannot run, if it cannot."""
        bench = self._bench
        if self._options.quick and not group.quick:
            return CheckResult.not_run("left out by --quick")
        if monotonic() - self._began > self._options.within:
            return CheckResult.not_run(f"no time was left of {self._options.within:.0f} s")
        for need in group.needs:
            is_met = HAS_PROC if need == "proc" else getattr(bench.spec, need)
            if not is_met:
                return _without(need, bench)
        return None

    async def _measure(self, group: Group, names: list[str]) -> None:
        """Run a group.

        What failed, and perhaps for lack of time, is tried once more on a fresh instance.
        """
        began = monotonic()
        first = await self._once(group)
        seconds_once = monotonic() - began
        failed = [name for name in names if first[name].word == "fail"]
        again = [name for name in failed if _is_doubtful(name, first[name])]
        room = monotonic() - self._began < self._options.within - seconds_once
        second: Mapping[str, CheckResult] = {}
        if again and room:
            second = await self._once(group, fresh=True)
        seconds = round(monotonic() - began, 2)
        for name in names:
            result = first[name]
            repeated = name in again and name in second
            if repeated:
                result = _of_two(result, second[name])
            self._keep(name, replace(result, seconds=seconds, repeats=int(repeated)))

    async def _once(self, group: Group, *, fresh: bool = False) -> Mapping[str, CheckResult]:
        bench = self._bench
        waited = Waited()
        try:
            used = bench.dirty or bench.deployed != group.deployed or not bench.service.is_running
            if fresh or group.fresh or used:
                await bench.start(deployed=group.deployed)
            bench.check_bounds()
            results = await group.run(bench)
        except NotServingError as error:
            reason = str(error)[:300]
            results = CheckResult.not_run(f"it did not serve: {reason}")
        except Exception as error:  # noqa: BLE001 - a check of ours, or of theirs, is at fault
            results = CheckResult(Outcome.ERROR, evidence=f"{type(error).__name__}: {error}")
        bench.dirty = bench.dirty or group.fresh
        await bench.heal()
        busy = max(waited.share, waited.others_share) > self._options.busy
        if isinstance(results, CheckResult):
            results = dict.fromkeys(group.ids, results)
        return {name: _if_calm(name, results[name], busy=busy) for name in group.ids}

    def _keep(self, name: str, result: CheckResult) -> None:
        """Write a result down, without secrets."""
        evidence = self._clean(result.evidence)
        facts = self._clean(result.facts)
        clean = replace(result, evidence=evidence, facts=facts)
        self._run.results[name] = clean
        self._on_result(name, clean)

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            for secret in self._bench.spec.secrets:
                value = value.replace(secret, "***")
            return "".join(char if char.isprintable() else " " for char in value)
        if isinstance(value, dict):
            entries = cast("dict[str, Any]", value).items()
            return {key: self._clean(entry) for key, entry in entries}
        if isinstance(value, list | tuple):
            return [self._clean(entry) for entry in cast("list[Any]", value)]
        return value


def _without(need: str, bench: Bench) -> CheckResult:
    keeps = bench.spec.keeps
    if need == "metrics":
        return CheckResult.fails("no metrics were found")
    if need == "proc":
        return CheckResult.not_run("this system has no /proc")
    reasons: dict[str, str] = {}
    if bench.spec.has_no_database or (bench.durable is False and not keeps):
        reasons["database"] = f"it keeps {keeps or 'nothing'}, so there is no database to lose"
    if keeps == "nothing":
        reasons["write"] = "it keeps nothing, and names no write"
    if need in reasons:
        return CheckResult.not_applicable(f"nothing to ask: {reasons[need]}")
    reason = f"the service file names no {need}"
    if need in {"auth", "stream"}:
        return CheckResult.not_applicable(reason)
    return CheckResult.not_run(reason)


def _demand(request: str, answer: Response) -> None:
    if not answer.good:
        text = answer.text[:300]
        raise NotServingError(f"the {request} of the file was answered {answer} {text}")


def _is_doubtful(name: str, result: CheckResult) -> bool:
    """Whether a lack of processor time may have kept it from passing."""
    entry = rubric().entries.get(name)
    timed = entry is not None and entry.timed and result.outcome is Outcome.MEASURED
    return timed and result.score < 1 and not result.sure


def _if_calm(name: str, result: CheckResult, *, busy: bool) -> CheckResult:
    """Take back what was timed on a machine that was too busy, unless it passed."""
    if busy and _is_doubtful(name, result):
        return CheckResult.not_run(f"the machine is too busy to say: {result.evidence}")
    return result


def _of_two(first: CheckResult, second: CheckResult) -> CheckResult:
    """Fail what failed twice; else it is half, and unsteady."""
    if second.outcome is not Outcome.MEASURED:
        return first
    if second.word == "fail":
        return second
    evidence = f"unsteady: {first.evidence}; then {second.evidence}"
    return replace(second, score=0.5, evidence=evidence)
