"""Each profile of load finds what it looks for, on services that are computed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest

from postfacta_lab.load.gate import Limits, Run, Sample, Verdict
from postfacta_lab.load.generator import Target, moments
from postfacta_lab.load.mix import Ask
from postfacta_lab.load.profiles import PROFILES, Bench, Plan, Stage, drift, look, slope

CAPACITY = 100.0
Serve = Callable[[Stage], tuple[float, float]]  # good answers a second, and their latency


def sheds(stage: Stage) -> tuple[float, float]:
    """Serve up to the capacity in time, and refuse the rest at once."""
    return CAPACITY, 0.02


def collapses(stage: Stage) -> tuple[float, float]:
    """Serve up to the capacity in time, and above it all too late."""
    return (CAPACITY, 0.02) if stage.rate <= CAPACITY else (0.0, 0.02)


class Computed(Bench):
    """A bench without a network: each stage goes as the service is said to serve."""

    def __init__(self, plan: Plan, serve: Serve) -> None:
        super().__init__(plan)
        self.serve = serve
        self.stages: list[Stage] = []

    async def play(self, *stages: Stage) -> list[Run]:
        return [self.serve_stage(stage) for stage in stages]

    def serve_stage(self, stage: Stage) -> Run:
        self.stages.append(stage)
        good, latency = self.serve(stage)
        offsets = moments("constant", stage.rate, stage.seconds)
        share, owed, samples = good / stage.rate, 0.0, list[Sample]()
        for at in offsets:
            owed += min(share, 1.0)
            error = "" if owed >= 1.0 - 1e-9 else "503"
            owed -= owed >= 1.0 - 1e-9
            samples.append(Sample("GET /", at, at, at + latency, error))
        return Run(name=stage.name, samples=samples, planned=len(offsets), seconds=stage.seconds)


def play(
    name: str, serve: Serve, rate: float, capacity: float = 0.0
) -> tuple[dict[str, Run], list[Stage]]:
    """Play a profile against a service, with stages of ten seconds."""
    plan = Plan(
        target=Target("http://127.0.0.1:9", {}),
        asks=[Ask("GET /", 1, "/")],
        rate=rate,
        seconds=10.0,
        limits=Limits(failed=0.005),
        capacity=capacity,
    )

    async def run() -> tuple[dict[str, Run], list[Stage]]:
        bench = Computed(plan, serve)
        return {part.name: part for part in await PROFILES[name].play(bench)}, bench.stages

    return asyncio.run(run())


def verdicts(parts: dict[str, Run]) -> dict[str, Verdict]:
    """Return how the parts that are no step were judged."""
    return {name: part.verdict for name, part in parts.items() if not name.startswith("step")}


def test_a_breakpoint_finds_the_capacity_of_a_service_that_sheds() -> None:
    parts, stages = play("breakpoint", sheds, 80.0)
    best = max(part.goodput for name, part in parts.items() if name.startswith("step"))
    assert best == pytest.approx(CAPACITY, rel=0.05)
    assert verdicts(parts) == {"above": Verdict.PASS, "after": Verdict.PASS}
    assert [stage.rate for stage in stages[:2]] == [80.0, 84.0]
    assert stages[-2].rate > CAPACITY * 1.5
    assert stages[-1].rate < CAPACITY


def test_a_service_that_collapses_above_its_capacity_fails() -> None:
    parts, _ = play("breakpoint", collapses, 80.0)
    assert verdicts(parts) == {"above": Verdict.FAIL, "after": Verdict.PASS}
    assert all(
        part.verdict is Verdict.PASS for name, part in parts.items() if name.startswith("step")
    )


def test_a_service_that_cannot_serve_the_first_step_has_no_capacity() -> None:
    parts, stages = play("breakpoint", lambda _: (0.0, 0.02), 80.0)
    assert [part.verdict for part in parts.values()] != [Verdict.PASS]
    assert len(stages) == 1


def test_a_peak_above_a_known_capacity_is_judged_by_good_answers() -> None:
    assert verdicts(play("expected", sheds, 300.0, CAPACITY)[0]) == {"overload": Verdict.PASS}
    assert verdicts(play("expected", collapses, 300.0, CAPACITY)[0]) == {"overload": Verdict.FAIL}
    assert verdicts(play("expected", sheds, 300.0)[0]) == {"steady": Verdict.FAIL}


def test_a_spike_must_leave_no_trace() -> None:
    parts, stages = play("spike", sheds, 50.0)
    assert verdicts(parts) == dict.fromkeys(("before", "spike", "after"), Verdict.PASS)
    assert [round(stage.rate) for stage in stages] == [50, 140, 230, 320, 410, 500, 50]
    seen: list[str] = []

    def wedged(stage: Stage) -> tuple[float, float]:
        seen.append(stage.name)
        return (0.0, 0.02) if "spike" in seen else (CAPACITY, 0.02)

    assert verdicts(play("spike", wedged, 50.0)[0])["after"] is Verdict.FAIL


def test_a_slope_is_known_as_well_as_its_points_agree() -> None:
    assert slope([0.0, 1.0, 2.0], [1.0, 3.0, 5.0]) == (2.0, 0.0)
    rise, doubt = slope([0.0, 1.0, 2.0, 3.0], [1.0, 4.0, 1.0, 4.0])
    assert doubt > rise > 0


def test_what_grows_for_an_hour_is_named_and_what_wobbles_is_not() -> None:
    leaking = [(at * 60.0, 100_000_000 + at * 1_000_000, 20 + at % 3, 4) for at in range(60)]
    assert drift(leaking) == ["memory grows by 43.8% an hour"]
    assert drift([(at * 60.0, 100_000_000 + (at % 5) * 1_000_000, 20, 4) for at in range(60)]) == []
    assert drift(leaking[:8]) == []


def test_a_process_holds_memory_files_and_threads() -> None:
    memory, files, threads = look(os.getpid())
    assert memory > 1_000_000
    assert files > 2
    assert threads >= 1
    assert look(2**22 + 1) == (0, 0, 0)
