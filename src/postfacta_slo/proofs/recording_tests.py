"""Traffic scenarios for recording rules.

What counts and what is excluded, when a slice is bad, what is left.
"""

from __future__ import annotations

from typing import Final

from ..promise.model import DAY, PRESENT, RatioIndicator, ThresholdIndicator, error_series
from ..promise.promql import number
from ..rules.alerts import HOLDS
from .detection import Burn, spread, verdicts
from .scenario import Assertion, Scenario, Test, constant, firing, notation

_HOUR: Final = 3_600
# A budget so small that a touch spends it in this many scrapes is only spent.
_LONGEST: Final = 3_000


def recording_tests(scenario: Scenario) -> list[Test]:
    """Return the tests of the figures that an objective is recorded by."""
    return [
        _quiet(scenario),
        _weighed(scenario),
        *_one_sided(scenario),
        *_idle(scenario),
        _spent(scenario),
        *_unjudged(scenario),
        *_probed(scenario),
        *_instances(scenario),
    ]


def _quiet(scenario: Scenario) -> Test:
    """Nothing fails but what is left out: every figure has its value of a clean objective."""
    objective = scenario.objective
    scrapes = scenario.scrapes(2 * PRESENT)
    figures = {
        "slo:objective:ratio": float(number(objective.target)),
        "slo:error_budget:ratio": objective.budget,
        "slo:time_period:days": float(number(objective.period / DAY)),
        "slo:info": 1,
        "slo:period_error_budget_remaining:ratio": 1,
        "slo:period_ok:bool": 1,
    }
    figures |= dict.fromkeys(_guards(scenario), 0)
    if objective.slices:
        figures["slo:slice_error:ratio"] = 0
    checks = [
        scenario.silence(scrapes),
        scenario.windows("{} == 0", scrapes),
    ]
    for name, value in figures.items():
        checks.append(scenario.value(name, value, scrapes))
    scraped = scenario.scraped(scenario.steady(scrapes), never="bad")
    scraped |= scenario.left_out(scrapes, failing=True)
    return scenario.test("what is left out fails, and none of it counts", scraped, checks)


def _guards(scenario: Scenario) -> list[str]:
    """Return the series by which a tier with a floor counts its failures."""
    return [
        error_series(tier.long, "increase")
        for tier in scenario.objective.tiers
        if tier.min_failures
    ]


def _weighed(scenario: Scenario) -> Test:
    """A share fails, and what is left out goes well: the figures have just this share."""
    scrapes = scenario.scrapes(4 * PRESENT)
    stretch = scenario.stretch(scrapes, scenario.bad_share)
    share = stretch.bad / stretch.total
    budget = number(scenario.objective.budget)
    burn = f"slo:current_burn_rate:ratio{{{scenario.matchers}}} * {budget}"
    error = f"slo:sli_error:ratio_rate5m{{{scenario.matchers}}}"
    checks = [
        scenario.windows(scenario.near(share), scrapes),
        scenario.count(f"abs({burn} - {error}) < 1e-9", 1, scrapes),
        scenario.value("slo:period_ok:bool", 0, scrapes),
    ]
    if scenario.objective.slices and isinstance(scenario.objective.indicator, RatioIndicator):
        # A slice stays bad however much dilutes it, until its share is below its limit.
        near = f"slo:slice_error:ratio{{{scenario.matchers}}} > {share - 1e-9!r} < {share + 1e-9!r}"
        checks.append(scenario.count(near, 1, scrapes))
    scraped = scenario.scraped(scenario.traffic(stretch))
    scraped |= scenario.left_out(scrapes, failing=False)
    return scenario.test("what is left out goes well, and hides nothing", scraped, checks)


def _one_sided(scenario: Scenario) -> list[Test]:
    """All fails at once: a slice is bad for several reasons, and still one slice."""
    if not isinstance(scenario.objective.indicator, RatioIndicator):
        return []
    scrapes = scenario.scrapes(4 * PRESENT)
    traffic = scenario.traffic(scenario.stretch(scrapes, 1))
    failing = constant(0, scrapes)
    scraped = scenario.scraped(traffic, never="good")
    for name in (scenario.probe, scenario.instance("one")):
        if name:
            scraped[name] = failing
    checks = [scenario.windows(scenario.near(1), scrapes)]
    for name in _guards(scenario):
        failures = f"{name}{{{scenario.matchers}}}"
        checks.append(scenario.count(f"{failures} > 0", 1, scrapes))
    if scenario.objective.slices:
        checks.append(scenario.value("slo:slice_bad:bool", 1, scrapes))
        checks.append(_judged(scenario, scrapes, expected=True))
    return [scenario.test("nothing has ever gone well", scraped, checks)]


def _idle(scenario: Scenario) -> list[Test]:
    """There are no requests at all; a measured value has no such case."""
    if not scenario.counted and isinstance(scenario.objective.indicator, ThresholdIndicator):
        return []
    end = scenario.scrapes(2 * PRESENT)
    name = "nothing ever happens"
    scraped = scenario.scraped(scenario.steady(end, 0))
    checks = [scenario.silence(end)]
    if scenario.counting:
        checks.append(scenario.windows("{}", end, none=True))
        return [scenario.test(name, scraped, checks)]
    points = f"slo:point_bad:bool{{{scenario.matchers}}}"
    slices = f"slo:slice_error:ratio{{{scenario.matchers}}}"
    checks.append(scenario.count(f"{points} or {slices}", 0, end))
    if not scenario.objective.slices:
        return [scenario.test(name, scraped, checks)]
    checks.append(scenario.value("slo:slice_bad:bool", 0, end))
    judged = _judged(scenario, end, expected=bool(scenario.probe))
    tests = [scenario.test(name, scraped, [*checks, judged])]
    if scenario.probe:
        unseen = scraped | {scenario.probe: ""}
        checks.append(_judged(scenario, end, expected=False))
        tests.append(scenario.test(f"{name}, and no scrape succeeds", unseen, checks))
    return tests


def _spent(scenario: Scenario) -> Test:
    """The budget is first touched, then spent."""
    budget = scenario.objective.budget
    burst, bad = scenario.burst()
    hold = scenario.scrapes(HOLDS["ErrorBudgetExhausted"])
    unspent = max(scenario.scrapes(_HOUR), 2 * bad / budget)
    touched = scenario.whole(min(_LONGEST, unspent))
    # Long enough for the alert, if it were to fire, and for a slice to notice.
    alerting = hold + 4 * scenario.every
    pause = scenario.whole(max(alerting, scenario.slice_length()))
    overspent = scenario.whole(2 * budget * (touched + burst))
    lasts = overspent + hold + 2 * burst + 4 * scenario.every
    traffic = scenario.traffic(
        scenario.stretch(touched, 0),
        scenario.stretch(burst, 1),
        scenario.stretch(pause, 0),
        scenario.stretch(lasts, 1),
    )
    left = f"slo:period_error_budget_remaining:ratio{{{scenario.matchers}}}"
    checks = [scenario.count(f"{left} < 0", 1, traffic.scrapes)]
    if touched * budget > bad:
        checks.append(scenario.count(f"{left} > 0 < 1", 1, touched + burst + pause))
    if severity := scenario.objective.exhausted_severity:
        period = round(scenario.objective.period / scenario.source.scrape_interval)
        spent = Burn(
            tier="",
            long=period,
            short=period,
            hold=hold,
            threshold=budget,
        )
        alert = scenario.alert("ErrorBudgetExhausted")
        outcomes = {"": verdicts(traffic, spent, scenario.by, every=scenario.every)}
        checks += firing(alert, outcomes, {"": severity}, every=scenario.every)
    return scenario.test("the budget is touched, then spent", scenario.scraped(traffic), checks)


def _unjudged(scenario: Scenario) -> list[Test]:
    slices = scenario.objective.slices
    if not slices or not slices.min_requests:
        return []
    width = scenario.scrapes(slices.window)
    few = slices.min_requests - 1
    enough = 2 * slices.min_requests
    quiet = spread(width, few, few) * 4
    loud = spread(width, enough, enough) * 2
    traffic = scenario.traffic(*quiet, *loud)
    too_few_at = 3 * width
    enough_at = 6 * width
    checks = [
        scenario.value("slo:slice_bad:bool", 0, too_few_at),
        scenario.value("slo:slice_bad:bool", 1, enough_at),
    ]
    if not slices.probe:
        checks.append(_judged(scenario, too_few_at, expected=False))
        checks.append(_judged(scenario, enough_at, expected=True))
    scraped = scenario.scraped(traffic) | scenario.all_left_out(enough_at)
    return [scenario.test("too few to judge, then enough", scraped, checks)]


def _probed(scenario: Scenario) -> list[Test]:
    if not scenario.probe:
        return []
    traffic, well = scenario.disturbed()
    idle = scenario.scraped(scenario.steady(traffic.scrapes, 0))
    idle[scenario.probe] = notation(well)
    name = "the probe fails and there are no other requests"
    during = _during(scenario, traffic.scrapes)
    failing = scenario.course(name, traffic, idle, checks=during)
    unprobed = scenario.scraped(scenario.steady(traffic.scrapes))
    unprobed[scenario.probe] = ""
    checks = [
        scenario.silence(traffic.scrapes),
        scenario.value("slo:slice_bad:bool", 0, traffic.scrapes),
        _judged(scenario, traffic.scrapes, expected=True),
    ]
    return [failing, scenario.test("there is no probe", unprobed, checks)]


def _instances(scenario: Scenario) -> list[Test]:
    """An instance goes down, or is not scraped any more, and is the last one or not."""
    first = scenario.instance("one")
    second = scenario.instance("two")
    if not first:
        return []
    traffic, well = scenario.disturbed()
    steady = scenario.scraped(scenario.steady(traffic.scrapes))
    steady[second] = notation(well)
    # There are no requests and no probes: all that is known is that no instance is there.
    idle = scenario.scraped(scenario.steady(traffic.scrapes, 0))
    idle[scenario.probe] = ""
    down = {
        first: notation(well),
        second: notation([0] * len(well)),
    }
    vanishing = map(_vanishing, [0, *well], well)
    gone = {first: notation(vanishing)}
    during = _during(scenario, traffic.scrapes)
    silent = [scenario.silence(traffic.scrapes)]
    return [
        scenario.course("the last instance goes down", traffic, idle | down, checks=during),
        scenario.course("the last instance is gone", traffic, idle | gone, checks=during),
        scenario.test("one of two instances goes down", steady, silent),
    ]


def _vanishing(was_up: int, is_up: int) -> int | str | None:
    """Return the sample of an instance that is not scraped any more while it is down."""
    if is_up:
        return is_up
    return "stale" if was_up else None


def _during(scenario: Scenario, end: int) -> list[Assertion]:
    """The checks that a slice is known, and bad, while something other than events is disturbed."""
    at = end - scenario.scrapes(4 * PRESENT)
    return [
        scenario.value("slo:slice_bad:bool", 1, at),
        _judged(scenario, at, expected=True),
    ]


def _judged(scenario: Scenario, at: int, *, expected: bool) -> Assertion:
    return scenario.value("slo:slice_judged:bool", expected, at)
