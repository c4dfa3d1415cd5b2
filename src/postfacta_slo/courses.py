"""Traffic scenarios that must (or must not) fire each alert tier.

The numbers are chosen so that each condition of each alert decides one of the scenarios: without the long window a
blip would fire, without the short one an alert would go on, without the floor a handful of failures would page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from .budget import threshold
from .checks import Test
from .model import Tier
from .promql import number
from .stage import Stage
from .traffic import Stretch, Traffic, spread

__all__ = ["SHARES", "courses", "outage"]

SHARES: Final = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)  # How much fails in the outages whose detection is proved.

_OUTAGE: Final = 1_800
# More samples of nothing than these would only take time.
_LONGEST: Final = 3_000
# However long a tier's short window is, an alert must stop within it and so much more.
_GRACE: Final = 60


def courses(stage: Stage) -> list[Test]:
    """Return the tests of an objective's alerts."""
    tests = _outages(stage)
    for place, tier in enumerate(stage.objective.tiers):
        tests += [_smoulder(stage, place), _blip(stage, tier), *_few(stage, tier)]
    return tests


def outage(stage: Stage, share: float) -> Traffic:
    """Return half an hour in which this share fails, after a time without a fault, and its end."""
    after = stage.scene.scrapes(stage.objective.tiers[0].short + _GRACE)
    stretches = [(stage.history(), 0.0), (stage.scene.scrapes(_OUTAGE), share), (after, 0.0)]
    return stage.scene.traffic(*(stage.scene.stretch(length, part) for length, part in stretches))


def _outages(stage: Stage) -> list[Test]:
    """All fails, then less and less: each share that is not detected within the same minute as the one before."""
    tests: list[Test] = []
    before: list[int] = []
    for share in SHARES:
        if not _shows(stage, share):
            continue
        traffic = outage(stage, share)
        first = [_fired(stage, verdict) for verdict in stage.scene.verdicts(traffic).values()]
        minute = stage.scene.scrapes(_GRACE)
        if not tests or any(abs(one - other) > minute for one, other in zip(first, before, strict=True)):
            tests.append(stage.course(f"{number(share * 100)} % fail for half an hour", traffic))
            before = first
    return tests


def _shows(stage: Stage, share: float) -> bool:
    """Whether there is an alert, and the share is one of whole events."""
    volume = stage.scene.volume
    return bool(stage.objective.tiers) and math.isclose(stage.scene.stretch(1, share).bad, share * volume)


def _fired(stage: Stage, verdict: Sequence[bool | None]) -> int:
    """At which sample an alert surely fires; past the last one if it never does."""
    return (verdict.index(True) if True in verdict else len(verdict)) * stage.scene.every


def _smoulder(stage: Stage, place: int) -> Test:
    """The failures just suffice for this tier, and for no faster one."""
    tier, scene = stage.objective.tiers[place], stage.scene
    faster = stage.objective.tiers[place - 1] if place else None
    above = threshold(stage.objective, faster) if faster else 1.0
    share = math.sqrt(threshold(stage.objective, tier) * above)
    name = f"{number(round(share * 100, 3))} % fail, for tier {tier.name}"
    burst, bad = stage.burst()
    period = max(burst, scene.whole(bad / share))
    alone = scene.scrapes(faster.long) + scene.every if faster else period
    if not stage.counting and period < alone < bad / (1.25 * threshold(stage.objective, tier)):
        # Two bursts in the faster tier's window would be too much for it, and one in so long a time is enough.
        period, share = alone, bad / alone
    # So long that the first burst alone is nothing to a faster tier.
    before = max(stage.history(), scene.whole(min(_LONGEST, 1.5 * bad / above)))
    after = scene.scrapes(tier.short + _GRACE)
    # So long that the long window still burns when the short one has let go.
    limit = min(1.15 * threshold(stage.objective, tier), 0.9 * share)
    lasts = scene.whole(limit * (before + after) / (share - limit))
    most = max(lasts, 4 * before + 2 * scene.scrapes(tier.hold))
    burning = (
        [scene.stretch(most, share)] if stage.counting else _bursts(stage, burst, most=most, period=period)
    )
    fire = [scene.stretch(before), *burning]
    fired = _fired(stage, scene.verdicts(scene.traffic(*fire))[tier.name])
    played = _until(fire, max(fired + scene.scrapes(2 * _GRACE), before + lasts))
    return stage.course(name, scene.traffic(*played, scene.stretch(after)))


def _bursts(stage: Stage, burst: int, *, most: int, period: int) -> list[Stretch]:
    """A burst of failures in each period, for this many scrapes or somewhat more."""
    one = [stage.scene.stretch(burst, 1), stage.scene.stretch(period - burst)]
    return one * (4 + math.ceil(most / period))


def _blip(stage: Stage, tier: Tier) -> Test:
    """The failures exceed the short window's threshold for long enough, but not the long window's."""
    scene, burn = stage.scene, stage.scene.burn(tier)
    limit = burn.threshold
    if stage.counting:
        lasts = scene.whole(burn.hold + burn.short * 2 / 3 + 4 * scene.every)
        before = scene.whole(max(burn.short, 2 * lasts))
        fault = scene.stretch(min(lasts, scene.whole(burn.long / 2)), min(1.0, 1.5 * limit))
    else:
        burst, bad = stage.burst()
        fault = scene.stretch(burst + scene.whole(max(0.0, 1.5 * limit * burn.short - bad)), 1)
        before = scene.whole(max(2 * burn.short, 1.4 * (fault.scrapes + bad) / limit))
    after = scene.stretch(scene.whole(burn.hold + 8 * scene.every))
    traffic = scene.traffic(scene.stretch(min(before, scene.whole(burn.long))), fault, after)
    return stage.course(f"a blip that tier {tier.name} must not mind", traffic)


def _few(stage: Stage, tier: Tier) -> list[Test]:
    """There is so little traffic that the floor decides: one in twenty fails, then one too few, then twice enough."""
    if not tier.min_failures:
        return []
    burn, floor = stage.scene.burn(tier), tier.min_failures
    most = max(1, min(4 * burn.long, int((floor - 1) / (1.5 * burn.threshold))))
    quiet = [*spread(burn.long, 20, 1), *spread(burn.long, max(most, floor - 1), floor - 1) * 2]
    loud = spread(burn.long, max(most, 2 * floor), 2 * floor) * 2
    traffic = stage.scene.traffic(*quiet, *loud)
    # A handful is not always in the short window: it must not fire at any time, not only at the end.
    silent = stage.silence(3 * burn.long, f'{stage.alert("ErrorBudgetBurn")},burnrate_tier="{tier.name}"')
    name = f"a handful fails, and tier {tier.name} waits for more"
    return [stage.course(name, traffic, others=stage.left_out(traffic.scrapes), checks=[silent])]


def _until(stretches: Iterable[Stretch], scrapes: int) -> list[Stretch]:
    """The first `scrapes` scrapes of some stretches."""
    kept: list[Stretch] = []
    for stretch in stretches:
        kept.append(Stretch(min(stretch.scrapes, scrapes), stretch.total, stretch.bad))
        scrapes -= kept[-1].scrapes
    return [stretch for stretch in kept if stretch.scrapes]
