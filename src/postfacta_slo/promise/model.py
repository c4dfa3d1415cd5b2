"""A service's objectives as frozen records, made by `openslo.read`.

Everything else is generated from them.

All times are whole seconds, before compression: `--compress` divides them only where a rule is
written. A record that cannot be met, measured or alerted upon is refused when it is made.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar, Final, cast

from .promql import Expression, Matcher, Query, Selector, SloError

DAY: Final = 86_400  # Seconds.
# The window of the present burn rate, and of the rates that longer windows are summed from, in
# seconds.
PRESENT: Final = 300
# The windows that each objective's error share is recorded over, beside those of its own.
REPORTED: Final = (PRESENT, 3_600, 6 * 3_600, 3 * DAY, 30 * DAY)
_UNITS: Final = (
    (DAY, "d"),
    (3_600, "h"),
    (60, "m"),
    (1, "s"),
)
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_NAME: Final = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]{0,61}[a-zA-Z0-9])?")
_SHORTEST_SLICE: Final = 60  # Seconds.
# Fewer samples than these in a window, and one lost scrape empties it: rate() needs two.
SCRAPES_IN_A_WINDOW: Final = 4
# The generator writes these itself, or Prometheus does.
_RESERVED: Final = re.compile(
    r"alertname|burnrate_tier|instance|job|le|metric|quantile|service|severity|slo|__.*", re.DOTALL
)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise SloError(f"needs a name of up to 63 letters, digits, dots and dashes: {name!r}")


def _check_labels(labels: tuple[tuple[str, str], ...]) -> None:
    for name, value in labels:
        if not _LABEL.fullmatch(name) or _RESERVED.fullmatch(name) or not value:
            raise SloError(f"cannot put this label onto alerts: {name}={value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """The Prometheus that measures."""

    name: str  # Its name in the file.
    scrape_interval: int  # Seconds between two samples.
    evaluation_interval: int  # Seconds between two evaluations of the rules.
    # The upper edges of the buckets, ascending, by the histogram's name without `_bucket`.
    histograms: tuple[tuple[str, tuple[float, ...]], ...] = ()

    def __post_init__(self) -> None:
        if min(self.scrape_interval, self.evaluation_interval) < 1:
            raise SloError("scrapes and evaluates at most once a second")
        for name, edges in self.histograms:
            if not edges or list(edges) != sorted(set(edges)):
                raise SloError(f"histogram {name} needs its bucket edges, ascending")

    def edges_of(self, histogram: str) -> tuple[float, ...]:
        """Return the edges of a histogram; none if they were not stated."""
        return dict(self.histograms).get(histogram, ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The service that has the objectives."""

    name: str  # Becomes the label `service`.
    title: str = ""  # The name that people read.
    description: str = ""  # For people; may be empty.
    job: str  # The value of Prometheus's label `job` on all that this service exports.
    # Where an alert's runbook is; `{alert}` stands for its name. Empty for none.
    runbook_url: str = ""
    # Where to look; `{slo}` stands for the objective's name. Empty for none.
    dashboard_url: str = ""
    down_severity: str = "page"  # The severity of the alert that no instance is up.
    labels: tuple[tuple[str, str], ...] = ()  # Go onto each of its alerts.

    def __post_init__(self) -> None:
        for name in (self.name, self.down_severity):
            _check_name(name)
        _check_labels(self.labels)
        if not self.job:
            raise SloError("needs the job that its series are scraped under")
        for address, page in ((self.runbook_url, "runbook"), (self.dashboard_url, "dashboard")):
            if address and address.split() != [address]:
                raise SloError(
                    f"needs the address of a {page} for its alerts, without spaces: {address!r}"
                )

    @property
    def up(self) -> Selector:
        """The series that shows for each instance whether it can be scraped."""
        return Selector("up", (Matcher("job", "=", self.job),))

    @property
    def alert_prefix(self) -> str:
        """The service's name in CamelCase, with which each of its alerts begins."""
        words = re.split(r"[^a-zA-Z0-9]+", self.name)
        return "".join(word[:1].upper() + word[1:] for word in words)


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioIndicator:
    """A share of events. Exactly one of `good` and `bad` is given."""

    name: str  # Its name in the file.
    description: str  # What counts, for people; may be empty.
    good: Query | None  # The events that went well.
    bad: Query | None  # The events that did not.
    total: Query  # All events that count.
    # Whether the series only ever grow; else they are gauges, and each sample is a number of
    # events. Of expressions, which are rates or numbers of events by themselves, it says nothing.
    counter: bool = True

    def __post_init__(self) -> None:
        if (self.good is None) == (self.bad is None):
            raise SloError("needs either good or bad beside total")

    @property
    def counted(self) -> Query:
        """The good ones or the bad ones, whichever are given."""
        return self.bad or cast("Query", self.good)

    @property
    def is_expression(self) -> bool:
        """Whether it is measured by PromQL of the author, which no series can be made up for."""
        return isinstance(self.total, Expression)

    @property
    def counts(self) -> bool:
        """Whether events can be counted, and not only compared."""
        return self.counter and not self.is_expression

    @property
    def watched(self) -> tuple[Selector, ...]:
        return self.total.selectors


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdIndicator:
    """A measured value that must stay on one side of another."""

    name: str  # Its name in the file.
    description: str  # What is measured, for people; may be empty.
    metric: Query  # The series, or an expression; for a quantile the buckets of a histogram.
    # How several series become one: `max`, `min`, `avg` or `sum`; `quantile` for a histogram.
    aggregate: str
    quantile: float | None  # Which one, above 0 and below 1; None but for `quantile`.
    # What the measured value must be, compared with `value`: `lte`, `gte`, `lt` or `gt`.
    op: str = ""
    value: float = 0.0  # The other value, in the metric's unit.
    counts: ClassVar[bool] = False  # Whether events can be counted.

    def __post_init__(self) -> None:
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise SloError(f"needs a quantile above 0 and below 1: {self.quantile}")

    @property
    def watched(self) -> tuple[Selector, ...]:
        return self.metric.selectors


Indicator = RatioIndicator | ThresholdIndicator


@dataclass(frozen=True, slots=True, kw_only=True)
class Slices:
    """How a slice of time is judged."""

    window: int  # Its length in seconds.
    # The share of events in it that must be good, above 0 and up to 1; fewer, and the slice is bad.
    target: float
    # With fewer events the slice is not judged, and does no harm; 0 judges each that has any.
    min_requests: int = 0
    # A series that is 1 while a probe succeeds: any other value makes the slice bad.
    probe: Selector | None = None
    # Whether a slice is bad too while no instance of the service is up.
    needs_instance: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.target <= 1:
            raise SloError(f"needs a target of the slice above 0 and up to 1: {self.target}")
        if self.min_requests < 0 or self.window < _SHORTEST_SLICE:
            raise SloError("needs slices of a minute or more, and no fewer than 0 requests in them")

    @property
    def budget(self) -> float:
        return round(1 - self.target, 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One alert on the burn rate: it fires while the rate is above `factor` over both windows."""

    policy: str  # The name of the alert policy that it comes from.
    name: str  # Becomes the label `burnrate_tier`.
    severity: str  # Becomes the label `severity`, by which alerts are routed.
    factor: float  # How many times faster than allowed the budget is spent.
    long: int  # The window that says it is worth an alert, in seconds.
    short: int  # The window that says it still goes on, in seconds.
    hold: int  # How many seconds it must be so before the alert fires (Prometheus's `for`).
    # The alert is silent with fewer failed events than these in the long window.
    min_failures: int = 0
    # Whether silence of the indicator's series raises an alert of this severity too.
    when_no_data: bool = False

    def __post_init__(self) -> None:
        for name in (self.name, self.severity):
            _check_name(name)
        if not 0 < self.factor < math.inf:
            raise SloError(f"needs a factor above 0: {self.factor}")
        if not 0 < self.short < self.long:
            raise SloError(
                f"needs a short window below the long one: {self.short} s, {self.long} s"
            )
        if self.hold < 0 or self.min_failures < 0:
            raise SloError("waits for no negative time, nor for a negative number of failures")


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One SLO: the target for an indicator, its period, and its alert tiers."""

    name: str  # Becomes the label `slo`; no two of a service share it.
    title: str  # The name that people read.
    description: str  # For people; may be empty.
    service: Service  # Who promises.
    indicator: Indicator  # What is measured.
    target: float  # The promised share of good events or slices, above 0 and below 1.
    period: int  # The rolling window of the promise, in seconds.
    slices: Slices | None  # How slices are judged; None if events are counted (Occurrences).
    tiers: tuple[Tier, ...]  # Its alerts on the burn rate, the shortest long window first.
    # The severity of the alert that no budget is left; None for no such alert.
    exhausted_severity: str | None
    # Go onto each of its alerts, over those of the service.
    labels: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_labels(self.labels)
        if not 0 < self.target < 1 or self.budget <= 0:
            raise SloError(f"needs a target above 0 and below 1: {self.target}")
        if self.period < PRESENT:
            raise SloError(f"needs a time window of {PRESENT} s or more: {self.period} s")
        names = [tier.name for tier in self.tiers]
        lengths = [tier.long for tier in self.tiers]
        if len(set(names)) < len(names) or lengths != sorted(lengths):
            raise SloError(
                f"needs tiers of different names, the shortest first: {', '.join(names)}"
            )
        if self.slices and self.slices.min_requests and not self.indicator.counts:
            raise SloError("sets a minimum of requests for a slice, but its indicator counts none")
        for tier in self.tiers:
            self._check_tier(tier)

    def _check_tier(self, tier: Tier) -> None:
        if tier.factor * self.budget >= 1:
            raise SloError(
                f"alert policy {tier.policy} can never fire: {tier.factor:g} x (1 -"
                f" {self.target:g}) is 1 or more, and more than all cannot fail; lower the"
                " threshold"
            )
        if tier.long > self.period:
            raise SloError(
                f"alert policy {tier.policy} looks back further than the objective's own window"
            )
        if tier.min_failures and (self.slices or not self.indicator.counts):
            raise SloError(
                f"alert policy {tier.policy} counts failures, and this objective counts no events"
            )

    @property
    def budget(self) -> float:
        return round(1 - self.target, 12)

    @property
    def alert_labels(self) -> dict[str, str]:
        return dict(self.service.labels) | dict(self.labels)

    @property
    def windows(self) -> tuple[int, ...]:
        """The windows that its error share is recorded over, ascending."""
        windows = {self.period, *REPORTED}
        for tier in self.tiers:
            windows |= {tier.short, tier.long}
        return tuple(sorted(windows))

    @property
    def unit(self) -> str:
        """What it counts, in the plural."""
        if self.slices:
            return "slices"
        return "events" if isinstance(self.indicator, RatioIndicator) else "samples"

    def threshold(self, tier: Tier) -> float:
        return round(tier.factor * self.budget, 12)

    def spent_at(self, tier: Tier) -> float:
        """Return the share of the budget that is spent once the tier's long window has filled."""
        return round(tier.factor * tier.long / self.period, 12)

    def fires_after(self, tier: Tier, failing: float) -> float:
        """Return how long after a clean time the tier fires when this share fails.

        Infinite if never.

        It is a lower bound: scrapes and evaluations come on top, and the slice in which the fault
        begins.
        """
        share = self.threshold(tier)
        return math.inf if failing <= share else tier.long * share / failing + tier.hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The content of one file."""

    source: DataSource  # The Prometheus that measures.
    services: tuple[Service, ...]  # Who promises, in the file's order.
    objectives: tuple[Objective, ...]  # What is promised, in the file's order.

    def __post_init__(self) -> None:
        names = [objective.name for objective in self.objectives]
        if not names or len(set(names)) < len(names):
            raise SloError(f"needs objectives, each with a name of its own: {', '.join(names)}")
        for objective in self.objectives:
            self._check_windows(objective)

    def _check_windows(self, objective: Objective) -> None:
        step = max(self.source.scrape_interval, self.source.evaluation_interval)
        windows = [(tier.short, f"alert policy {tier.policy}") for tier in objective.tiers]
        windows += [(objective.slices.window, "its slice")] if objective.slices else []
        windows += [(PRESENT, "its present burn rate")]
        for window, owner in windows:
            if window < SCRAPES_IN_A_WINDOW * step:
                raise SloError(
                    f"SLO {objective.name}: {owner} has a window of {window} s and a sample each"
                    f" {step} s; it needs {SCRAPES_IN_A_WINDOW} samples or more: make it longer, or"
                    " scrape more often"
                )

    def of(self, service: Service) -> tuple[Objective, ...]:
        return tuple(objective for objective in self.objectives if objective.service == service)


def span(seconds: int, compress: int = 1) -> str:
    """Return a length of time as Prometheus writes it: `5m`, `30d`, compressed also `2500ms`."""
    if seconds % compress:
        thousandths = round(seconds * 1_000 / compress)
        if thousandths < 1:
            raise SloError(f"compressed {compress} times, {seconds} s is nothing")
        return f"{thousandths}ms"
    length = seconds // compress
    if not length:
        return "0s"
    # The last unit is a second, which every length is a multiple of.
    size, name = next((size, name) for size, name in _UNITS if not length % size)
    return f"{length // size}{name}"


def in_words(seconds: float) -> str:
    """Return an approximate duration for readers: `50 h`, `7.2 h`, `never` for infinity."""
    if math.isinf(seconds):
        return "never"
    for size, name in ((2 * DAY, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / min(size, DAY):.3g} {name}"
    return f"{seconds:.3g} s"


def percent(share: float) -> str:
    return f"{share * 100:.4g} %"


def error_series(window: int, measure: str = "ratio_rate") -> str:
    """Return the name of the series with the error share in a window, or the `increase`.

    Compression does not change it.
    """
    return f"slo:sli_error:{measure}{span(window)}"
