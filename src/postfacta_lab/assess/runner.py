"""Runs the checks in their order, each on a service that is well, and writes down what they found."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Any, cast

from ..engine.machine import Waited
from .bench import Bench, NotServingError
from .groups import GROUPS, Group
from .model import Outcome, Result, Verdict
from .rubric import rubric
from .service import HAS_PROC
from .spec import Spec

__all__ = ["Options", "Run", "run"]

# In this order: what a burst of requests would change comes first, then what others need to know.
_ORDER = "logs metrics security inputs crashes files deploys health data dependencies timelimits overload"
_MODULES = [f"{__package__}.checks.{name}" for name in _ORDER.split()]
_MISSING: Mapping[str, str] = {
    "read": "the file names no [read]",
    "write": "the file names no [write]",
    "database": "the file names no [database]",
    "auth": "the file names no [auth]",
    "metrics": "no metrics were found",
    "project": "the file names no project",
    "proc": "this system has no /proc",
}


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
    results: dict[str, Result] = field(default_factory=dict[str, Result])
    own: dict[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    machine: Mapping[str, float] = field(default_factory=dict[str, float])
    seconds: float = 0.0
    guessed: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def verdicts(self) -> dict[str, Verdict]:
        return {name: result.verdict for name, result in self.results.items()}


async def run(
    spec: Spec,
    environment: Mapping[str, str],
    options: Options,
    *,
    tell: Callable[[Result], None] = lambda _: None,
) -> Run:
    """Assess a service. Raise `NotServingError` if there is nothing to assess."""
    for module in _MODULES:
        import_module(module)
    async with AsyncExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="assess-")))
        bench = Bench(spec, folder, environment)
        stack.push_async_callback(bench.close)
        await bench.open()
        return await _Runner(bench, options, tell).all()


class _Runner:
    def __init__(self, bench: Bench, options: Options, tell: Callable[[Result], None]) -> None:
        self._bench, self._options, self._tell = bench, options, tell
        self._run = Run(bench.spec.name)
        bench.shared["busy"] = options.busy
        self._began = monotonic()
        self._hide = [secret for secret in bench.spec.secrets if secret]

    async def all(self) -> Run:
        """Start it, look at its calm, and run every group."""
        waited = Waited()
        bench, found = self._bench, self._run
        await bench.start()
        await self._floor()
        await bench.guess()
        found.guessed = {"live": bench.spec.live, "ready": bench.spec.ready, "metrics": bench.spec.metrics}
        for group in _ordered(GROUPS):
            await self._group(group)
        found.machine, found.seconds = waited.state(), monotonic() - self._began
        order = [*rubric().entries, *found.own]
        found.results = {name: found.results[name] for name in order if name in found.results}
        return found

    async def _floor(self) -> None:
        """Demand that the read and the write of the file are answered."""
        bench = self._bench
        if bench.spec.write is not None:
            answer = (await bench.write()).answer
            if not answer.good:
                raise NotServingError(f"the write of the file was answered {answer} {answer.text[:300]}")
        times: list[float] = []
        for _ in range(11 if bench.spec.read is not None else 0):
            answer = await bench.read()
            if not answer.good:
                raise NotServingError(f"the read of the file was answered {answer} {answer.text[:300]}")
            times.append(answer.seconds)
        bench.calm = sorted(times)[len(times) // 2] if times else 0.05

    async def _group(self, group: Group) -> None:
        spec = self._bench.spec
        wanted = [name for name in group.ids if name.startswith(self._options.only or "")]
        declared = {name: spec.declared[name] for name in wanted if name in spec.declared}
        for name, why in declared.items():
            self._keep(name, Verdict(Outcome.DECLARED, evidence=why))
        wanted = [name for name in wanted if name not in declared]
        if not wanted:
            return
        if group.own is not None:
            self._run.own[wanted[0]] = group.own
        if missing := self._missing(group):
            for name in wanted:
                self._keep(name, missing)
            return
        await self._measure(group, wanted)

    def _missing(self, group: Group) -> Verdict | None:
        """Return why a group cannot run, if it cannot."""
        bench = self._bench
        if self._options.quick and not group.quick:
            return Verdict.not_run("left out by --quick")
        if monotonic() - self._began > self._options.within:
            return Verdict.not_run(f"no time was left of {self._options.within:.0f} s")
        for need in group.needs:
            if not (HAS_PROC if need == "proc" else getattr(bench.spec, need)):
                return self._without(need)
        return None

    def _without(self, need: str) -> Verdict:
        if need == "database" and self._bench.durable is False:
            return Verdict.not_applicable("it keeps nothing, so there is no database to lose")
        if need == "auth":
            return Verdict.not_applicable(_MISSING[need])
        if need == "metrics":
            return Verdict.fails(_MISSING[need])
        return Verdict.not_run(_MISSING[need])

    async def _measure(self, group: Group, wanted: list[str]) -> None:
        """Run a group; what failed, and perhaps for lack of time, is tried once more on a fresh instance."""
        began, first = monotonic(), await self._once(group)
        again = [name for name in wanted if first[name].word == "fail" and _is_doubtful(name, first[name])]
        room = monotonic() - self._began < self._options.within - (monotonic() - began)
        second: Mapping[str, Verdict] = await self._once(group, fresh=True) if again and room else {}
        seconds = monotonic() - began
        for name in wanted:
            verdict = _of_two(first[name], second[name]) if name in again and second else first[name]
            self._keep(name, verdict, seconds, repeats=int(name in again and bool(second)))

    async def _once(self, group: Group, *, fresh: bool = False) -> Mapping[str, Verdict]:
        bench, waited = self._bench, Waited()
        try:
            used = bench.dirty or bench.deployed != group.deployed or not bench.service.is_running
            if fresh or group.fresh or used:
                await bench.start(deployed=group.deployed)
            bench.check_bounds()
            found = await group.run(bench)
        except NotServingError as error:
            found = Verdict.not_run(f"it did not serve: {str(error)[:300]}")
        except Exception as error:  # noqa: BLE001 - a check of ours, or of theirs, is at fault
            found = Verdict(Outcome.ERROR, evidence=f"{type(error).__name__}: {error}")
        bench.dirty = bench.dirty or group.fresh
        if bench.link is not None:
            await bench.link.heal()
        verdicts = dict.fromkeys(group.ids, found) if isinstance(found, Verdict) else found
        busy = max(waited.share, waited.others) > self._options.busy
        return {name: _if_calm(name, verdicts[name], busy=busy) for name in group.ids}

    def _keep(self, name: str, verdict: Verdict, seconds: float = 0.0, *, repeats: int = 0) -> None:
        """Write a result down, without secrets."""
        clean = replace(
            verdict, evidence=self._clean(verdict.evidence), facts=self._clean(dict(verdict.facts))
        )
        result = self._run.results[name] = Result(name, clean, round(seconds, 2), repeats)
        self._tell(result)

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            for secret in self._hide:
                value = value.replace(secret, "***")
            return "".join(char if char.isprintable() else " " for char in value)
        if isinstance(value, dict):
            return {key: self._clean(entry) for key, entry in cast("dict[str, Any]", value).items()}
        if isinstance(value, list | tuple):
            return [self._clean(entry) for entry in cast("list[Any]", value)]
        return value


def _ordered(groups: Iterable[Group]) -> list[Group]:
    """Sort ours in their order; those of others come last."""
    return sorted(
        groups,
        key=lambda group: (
            _MODULES.index(group.run.__module__) if group.run.__module__ in _MODULES else len(_MODULES)
        ),
    )


def _is_doubtful(name: str, verdict: Verdict) -> bool:
    """Whether a lack of processor time may have kept it from passing."""
    entry = rubric().entries.get(name)
    timed = entry is not None and entry.timed and verdict.outcome is Outcome.MEASURED
    return timed and verdict.score < 1 and not verdict.sure


def _if_calm(name: str, verdict: Verdict, *, busy: bool) -> Verdict:
    """Take back what was timed on a machine that was too busy, unless it passed."""
    if busy and _is_doubtful(name, verdict):
        return Verdict.not_run(f"the machine is too busy to say: {verdict.evidence}")
    return verdict


def _of_two(first: Verdict, second: Verdict) -> Verdict:
    """Fail what failed twice; else it is half, and unsteady."""
    if second.outcome is not Outcome.MEASURED:
        return first
    if second.word == "fail":
        return second
    return replace(second, score=0.5, evidence=f"unsteady: {first.evidence}; then {second.evidence}")
