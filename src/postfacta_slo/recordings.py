"""Traffic scenarios for recording rules: what counts and what is excluded, when a slice is bad, what is left."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from .budget import failures_series
from .checks import Check, Test, firing
from .detection import Burn, verdicts
from .model import DAY, PRESENT, RatioIndicator, ThresholdIndicator
from .promql import number
from .stage import Stage
from .traffic import notation, spread

__all__ = ["recordings"]

_HOUR: Final = 3_600
# What the alert on an empty budget waits for.
_EXHAUSTED_FOR: Final = 300
# A budget so small that a touch spends it in this many scrapes is only spent.
_LONGEST: Final = 3_000


def recordings(stage: Stage) -> list[Test]:
    """Return the tests of what is recorded of an objective."""
    tests = [_quiet(stage), _weighed(stage), *_one_sided(stage), *_idle(stage), _spent(stage)]
    return tests + _unjudged(stage) + _probed(stage) + _instances(stage)


def _quiet(stage: Stage) -> Test:
    objective, scrapes = stage.objective, stage.scene.scrapes(2 * PRESENT)
    constants = {
        "slo:objective:ratio": float(number(objective.target)),
        "slo:error_budget:ratio": objective.budget,
        "slo:time_period:days": float(number(objective.period / DAY)),
        "slo:info": 1,
        "slo:period_error_budget_remaining:ratio": 1,
        "slo:period_ok:bool": 1,
    }
    guards = {failures_series(tier.long): 0 for tier in objective.tiers if tier.min_failures}
    if objective.slices:
        guards["slo:slice_error:ratio"] = 0
    checks = [stage.silence(scrapes), stage.windows("{} == 0", scrapes)]
    checks += [stage.value(name, value, scrapes) for name, value in (constants | guards).items()]
    healthy = stage.scene.scraped(stage.steady(scrapes), bad_since=None)
    left_out = stage.scene.left_out(scrapes, failing=True)
    return stage.test("what is left out fails, and none of it counts", healthy | left_out, checks)


def _weighed(stage: Stage) -> Test:
    scrapes = stage.scene.scrapes(4 * PRESENT)
    stretch = stage.scene.stretch(scrapes, stage.bad_share)
    burn = f"slo:current_burn_rate:ratio{{{stage.own}}} * {number(stage.objective.budget)}"
    checks = [
        stage.windows(stage.near(stretch.bad / stretch.total), scrapes),
        stage.count(f"abs({burn} - slo:sli_error:ratio_rate5m{{{stage.own}}}) < 1e-9", 1, scrapes),
        stage.value("slo:period_ok:bool", 0, scrapes),
    ]
    if stage.objective.slices and isinstance(stage.objective.indicator, RatioIndicator):
        # A slice stays bad however much dilutes it, until its share is below its limit.
        share = stretch.bad / stretch.total
        near = f"slo:slice_error:ratio{{{stage.own}}} > {share - 1e-9!r} < {share + 1e-9!r}"
        checks.append(stage.count(near, 1, scrapes))
    scraped = stage.scene.scraped(stage.scene.traffic(stretch)) | stage.scene.left_out(scrapes, failing=False)
    return stage.test("what is left out goes well, and hides nothing", scraped, checks)


def _one_sided(stage: Stage) -> list[Test]:
    """All fails at once: a slice is bad for several reasons, and still one slice."""
    if not isinstance(stage.objective.indicator, RatioIndicator):
        return []
    scrapes = stage.scene.scrapes(4 * PRESENT)
    traffic = stage.scene.traffic(stage.scene.stretch(scrapes, 1))
    ill = notation([0] * (scrapes + 1))
    scraped = stage.scene.scraped(traffic, good_since=None)
    scraped |= {name: ill for name in (stage.probe, stage.instance("one")) if name}
    checks = [stage.windows(stage.near(1), scrapes)]
    guards = [failures_series(tier.long) for tier in stage.objective.tiers if tier.min_failures]
    checks += [stage.count(f"{name}{{{stage.own}}} > 0", 1, scrapes) for name in guards]
    if stage.objective.slices:
        checks += [stage.value(f"slo:slice_{what}:bool", 1, scrapes) for what in ("bad", "judged")]
    return [stage.test("nothing has ever gone well", scraped, checks)]


def _idle(stage: Stage) -> list[Test]:
    """There are no requests at all; a measured value has no such case."""
    if not stage.scene.counted and isinstance(stage.objective.indicator, ThresholdIndicator):
        return []
    end, name = stage.scene.scrapes(2 * PRESENT), "nothing ever happens"
    scraped = stage.scene.scraped(stage.steady(end, 0))
    checks = [stage.silence(end)]
    if stage.counting:
        return [stage.test(name, scraped, [*checks, stage.windows("{}", end, none=True)])]
    known = f"slo:point_bad:bool{{{stage.own}}} or slo:slice_error:ratio{{{stage.own}}}"
    checks.append(stage.count(known, 0, end))
    if not stage.objective.slices:
        return [stage.test(name, scraped, checks)]
    checks.append(stage.value("slo:slice_bad:bool", 0, end))
    tests = [stage.test(name, scraped, [*checks, _judged(stage, end, yes=bool(stage.probe))])]
    if stage.probe:
        unseen = scraped | {stage.probe: ""}
        tests.append(
            stage.test(f"{name}, and no scrape succeeds", unseen, [*checks, _judged(stage, end, yes=False)])
        )
    return tests


def _spent(stage: Stage) -> Test:
    """The budget is first touched, then spent."""
    scene, budget = stage.scene, stage.objective.budget
    burst, bad = stage.burst()
    hold = scene.scrapes(_EXHAUSTED_FOR)
    touched = scene.whole(min(_LONGEST, max(scene.scrapes(_HOUR), 2 * bad / budget)))
    # Long enough for the alert, if it were to fire, and for a slice to notice.
    pause = scene.whole(max(hold + 4 * scene.every, stage.slice_length()))
    lasts = scene.whole(2 * budget * (touched + burst)) + hold + 2 * burst + 4 * scene.every
    stretches = [(touched, 0), (burst, 1), (pause, 0), (lasts, 1)]
    traffic = scene.traffic(*(scene.stretch(length, share) for length, share in stretches))
    left = f"slo:period_error_budget_remaining:ratio{{{stage.own}}}"
    checks = [stage.count(f"{left} < 0", 1, traffic.scrapes)]
    if touched * budget > bad:
        checks.append(stage.count(f"{left} > 0 < 1", 1, touched + burst + pause))
    if severity := stage.objective.exhausted_severity:
        period = round(stage.objective.period / scene.source.scrape_interval)
        spent = Burn(tier="", long=period, short=period, hold=hold, threshold=budget)
        said = {"": verdicts(traffic, spent, scene.by, every=scene.every)}
        checks += firing(stage.alert("ErrorBudgetExhausted"), said, {"": severity}, every=scene.every)
    return stage.test("the budget is touched, then spent", scene.scraped(traffic), checks)


def _unjudged(stage: Stage) -> list[Test]:
    slices = stage.objective.slices
    if not slices or not slices.min_requests:
        return []
    width = stage.scene.scrapes(slices.window)
    few, enough = slices.min_requests - 1, 2 * slices.min_requests
    traffic = stage.scene.traffic(*spread(width, few, few) * 4, *spread(width, enough, enough) * 2)
    moments = ((3 * width, False), (6 * width, True))
    checks = [stage.value("slo:slice_bad:bool", bad, at) for at, bad in moments]
    if not slices.probe:
        checks += [_judged(stage, at, yes=yes) for at, yes in moments]
    scraped = stage.scene.scraped(traffic) | stage.left_out(6 * width)
    return [stage.test("too few to judge, then enough", scraped, checks)]


def _probed(stage: Stage) -> list[Test]:
    if not stage.probe:
        return []
    traffic, well = stage.disturbed()
    idle = stage.scene.scraped(stage.steady(traffic.scrapes, 0)) | {stage.probe: notation(well)}
    name = "the probe fails and there are no other requests"
    failing = stage.course(name, traffic, idle, checks=_during(stage, traffic.scrapes))
    steady = stage.scene.scraped(stage.steady(traffic.scrapes))
    checks = [
        stage.silence(traffic.scrapes),
        stage.value("slo:slice_bad:bool", 0, traffic.scrapes),
        _judged(stage, traffic.scrapes, yes=True),
    ]
    return [failing, stage.test("there is no probe", steady | {stage.probe: ""}, checks)]


def _instances(stage: Stage) -> list[Test]:
    one, two = stage.instance("one"), stage.instance("two")
    if not one:
        return []
    traffic, well = stage.disturbed()
    steady = stage.scene.scraped(stage.steady(traffic.scrapes)) | {two: notation(well)}
    # There are no requests and no probes: all that is known is that no instance is there.
    idle = stage.scene.scraped(stage.steady(traffic.scrapes, 0)) | {stage.probe: ""}
    down = {one: notation(well), two: notation([0] * len(well))}
    gone = {one: notation("stale" if was and not yes else yes or None for was, yes in pairwise([0, *well]))}
    during = _during(stage, traffic.scrapes)
    return [
        stage.course("the last instance goes down", traffic, idle | down, checks=during),
        stage.course("the last instance is gone", traffic, idle | gone, checks=during),
        stage.test("one of two instances goes down", steady, [stage.silence(traffic.scrapes)]),
    ]


def _during(stage: Stage, end: int) -> list[Check]:
    """The checks that a slice is known, and bad, while something other than events is disturbed."""
    at = end - stage.scene.scrapes(4 * PRESENT)
    return [stage.value("slo:slice_bad:bool", 1, at), _judged(stage, at, yes=True)]


def _judged(stage: Stage, at: int, *, yes: bool) -> Check:
    return stage.value("slo:slice_judged:bool", yes, at)
