"""Traffic scenarios that must (or must not) fire each alert tier.

The numbers are chosen so that each condition of each alert decides one of the scenarios: without
the long window a blip would fire, without the short one an alert would go on, without the floor a
handful of failures would page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from ..promise.model import Tier
from ..promise.promql import number
from .detection import Stretch, Traffic, spread
from .scenario import Scenario, Test

# How much fails in the outages whose detection is proved.
SHARES: Final = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)

_OUTAGE: Final = 1_800  # Seconds that an outage lasts.
# More samples of nothing than these would only take time.
_LONGEST: Final = 3_000
# However long a tier's short window is, an alert must stop within it and so much more.
_GRACE: Final = 60


def burn_tests(scenario: Scenario) -> list[Test]:
    tests = _outages(scenario)
    for place, tier in enumerate(scenario.objective.tiers):
        tests.append(_smoulder(scenario, place))
        tests.append(_blip(scenario, tier))
        tests += _few(scenario, tier)
    return tests


def outage(scenario: Scenario, share: float) -> Traffic:
    """Return half an hour in which this share fails, after a time without a fault, and its end."""
    after = scenario.scrapes(scenario.objective.tiers[0].short + _GRACE)
    return scenario.traffic(
        scenario.stretch(scenario.history()),
        scenario.stretch(scenario.scrapes(_OUTAGE), share),
        scenario.stretch(after),
    )


def _outages(scenario: Scenario) -> list[Test]:
    """All fails, then less and less.

    Each share that is not detected within the same minute as the one before.
    """
    tests: list[Test] = []
    firsts_before: list[int] = []
    minute = scenario.scrapes(_GRACE)
    for share in SHARES if scenario.objective.tiers else ():
        # Only a share that is one of whole events.
        bad = scenario.stretch(1, share).bad
        if not math.isclose(bad, share * scenario.volume):
            continue
        traffic = outage(scenario, share)
        verdicts = scenario.verdicts(traffic)
        firsts = [_fired(scenario, verdict) for verdict in verdicts.values()]
        delays = [abs(first - before) for first, before in zip(firsts, firsts_before, strict=False)]
        if not tests or max(delays) > minute:
            percent = number(share * 100)
            tests.append(scenario.course(f"{percent} % fail for half an hour", traffic))
            firsts_before = firsts
    return tests


def _fired(scenario: Scenario, verdict: Sequence[bool | None]) -> int:
    """At which sample an alert surely fires; past the last one if it never does."""
    evaluation = len(verdict)
    if True in verdict:
        evaluation = verdict.index(True)
    return evaluation * scenario.every


def _smoulder(scenario: Scenario, place: int) -> Test:
    """The failures just suffice for this tier, and for no faster one."""
    objective = scenario.objective
    tier = objective.tiers[place]
    faster = objective.tiers[place - 1] if place else None
    threshold = objective.threshold(tier)
    above = objective.threshold(faster) if faster else 1.0
    # The geometric mean is as many times above the one threshold as below the other.
    share = math.sqrt(threshold * above)
    percent = number(round(share * 100, 3))
    name = f"{percent} % fail, for tier {tier.name}"
    burst, bad = scenario.burst()
    period = max(burst, scenario.whole(bad / share))
    alone = period
    if faster:
        alone = scenario.scrapes(faster.long) + scenario.every
    longest_period = bad / (1.25 * threshold)
    if not scenario.counting and period < alone < longest_period:
        # Two bursts in the faster tier's window would be too much for it, and one in so long a time
        # is enough.
        period = alone
        share = bad / alone
    # So long that the first burst alone is nothing to a faster tier.
    harmless = scenario.whole(min(_LONGEST, 1.5 * bad / above))
    before = max(scenario.history(), harmless)
    after = scenario.scrapes(tier.short + _GRACE)
    # So long that the long window still burns when the short one has let go.
    limit = min(1.15 * threshold, 0.9 * share)
    lasts = scenario.whole(limit * (before + after) / (share - limit))
    hold = scenario.scrapes(tier.hold)
    most = max(lasts, 4 * before + 2 * hold)
    fire = [scenario.stretch(before)]
    if scenario.counting:
        fire.append(scenario.stretch(most, share))
    else:
        # A burst of failures in each period, for so long or somewhat more.
        periods = 4 + math.ceil(most / period)
        fire += [scenario.stretch(burst, 1), scenario.stretch(period - burst)] * periods
    verdicts = scenario.verdicts(scenario.traffic(*fire))
    fired = _fired(scenario, verdicts[tier.name])
    end = max(fired + scenario.scrapes(2 * _GRACE), before + lasts)
    played = _until(fire, end)
    return scenario.course(name, scenario.traffic(*played, scenario.stretch(after)))


def _blip(scenario: Scenario, tier: Tier) -> Test:
    """Failures exceed the short window's threshold for long enough, but not the long window's."""
    burn = scenario.burn(tier)
    limit = burn.threshold
    if scenario.counting:
        lasts = scenario.whole(burn.hold + burn.short * 2 / 3 + 4 * scenario.every)
        before = scenario.whole(max(burn.short, 2 * lasts))
        longest = scenario.whole(burn.long / 2)
        share = min(1.0, 1.5 * limit)
        fault = scenario.stretch(min(lasts, longest), share)
    else:
        burst, bad = scenario.burst()
        longer = scenario.whole(max(0.0, 1.5 * limit * burn.short - bad))
        fault = scenario.stretch(burst + longer, 1)
        diluting = 1.4 * (fault.scrapes + bad) / limit
        before = scenario.whole(max(2 * burn.short, diluting))
    quiet = min(before, scenario.whole(burn.long))
    after = scenario.whole(burn.hold + 8 * scenario.every)
    traffic = scenario.traffic(scenario.stretch(quiet), fault, scenario.stretch(after))
    return scenario.course(f"a blip that tier {tier.name} must not mind", traffic)


def _few(scenario: Scenario, tier: Tier) -> list[Test]:
    """There is so little traffic that the floor decides.

    One in twenty fails, then one too few, then twice enough.
    """
    if not tier.min_failures:
        return []
    burn = scenario.burn(tier)
    floor = tier.min_failures
    few = floor - 1
    enough = 2 * floor
    # So few events that the failures are a share above the threshold.
    events = int(few / (1.5 * burn.threshold))
    most = max(1, min(4 * burn.long, events))
    traffic = scenario.traffic(
        *spread(burn.long, 20, 1),
        *spread(burn.long, max(most, few), few) * 2,
        *spread(burn.long, max(most, enough), enough) * 2,
    )
    # A handful is not always in the short window: it must not fire at any time, not only at the
    # end.
    alert = f'{scenario.alert("ErrorBudgetBurn")},burnrate_tier="{tier.name}"'
    silent = scenario.silence(3 * burn.long, alert)
    name = f"a handful fails, and tier {tier.name} waits for more"
    left_out = scenario.all_left_out(traffic.scrapes)
    return [scenario.course(name, traffic, left_out=left_out, checks=[silent])]


def _until(stretches: Iterable[Stretch], scrapes: int) -> list[Stretch]:
    played: list[Stretch] = []
    for stretch in stretches:
        length = min(stretch.scrapes, scrapes)
        if length:
            played.append(Stretch(length, stretch.total, stretch.bad))
        scrapes -= length
    return played
