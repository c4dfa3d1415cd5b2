"""Write metrics as text; histograms at a sixth of prometheus-client's cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from itertools import accumulate
from types import SimpleNamespace
from typing import Any, Final, cast

from prometheus_client import utils
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.samples import Exemplar

from .catalogue import INSTRUMENTS, POLICY_METRICS, RUNTIME_METRICS
from .families import Family

METRICS: Final = {**INSTRUMENTS, **POLICY_METRICS, **RUNTIME_METRICS}
# It has no types.
_number: Final = cast("Callable[[float], str]", utils.floatToGoString)  # pyright: ignore[reportUnknownMemberType] - see above
_SPECIAL: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def empty_metric(name: str) -> Any:
    """Return a metric of the catalogue in prometheus-client's form, without a series."""
    about = METRICS[name]
    if about.buckets:
        kind: Any = HistogramMetricFamily
    elif name.endswith("_total"):
        kind = CounterMetricFamily
    else:
        kind = GaugeMetricFamily
    return kind(name, about.text, labels=about.labels)


def histogram_metric(name: str, family: Family) -> Metric:
    """Return a histogram in prometheus-client's form."""
    shown = empty_metric(name)
    bounds = _bound_texts(family)
    for labels, series in tuple(family.items()):
        cumulated = accumulate(series.counts)
        buckets = [*zip(bounds, cumulated, series.exemplars, strict=True)]
        shown.add_metric(labels, buckets, series.total)
    return cast("Metric", shown)


def histogram_text(
    name: str, family: Family, more_labels: Mapping[str, str], *, is_open: bool
) -> bytes:
    """Write a histogram as prometheus-client does, the labels once a series and not once a line.

    OpenMetrics (`is_open`) has exemplars. Labels are sorted by name; `le`, the bound of a bucket,
    stands in its place among them.
    """
    lines = [f"# HELP {name} {family.about.text}\n# TYPE {name} histogram\n"]
    bounds = _bound_texts(family)
    for values, series in tuple(family.items()):
        labels = {**more_labels, **dict(zip(family.about.labels, values, strict=True))}
        before, after, of_series = _label_texts(labels)
        count = 0
        number = "0.0"
        for bound, in_bucket, exemplar in zip(bounds, series.counts, series.exemplars, strict=True):
            if in_bucket:
                count += in_bucket
                number = _number(count)
            end = _exemplar(exemplar) if is_open and exemplar is not None else "\n"
            lines.append(f"{name}_bucket{before}{bound}{after}{number}{end}")
        lines.append(f"{name}_count{of_series} {number}\n")
        lines.append(f"{name}_sum{of_series} {_number(series.total)}\n")
    return "".join(lines).encode()


def _bound_texts(family: Family) -> list[str]:
    return [*(repr(float(bound)) for bound in family.about.buckets), "+Inf"]


def _label_texts(labels: Mapping[str, str]) -> tuple[str, str, str]:
    """Return what stands before a bucket's bound and after it, and the labels of a sum."""
    lower = ""
    higher = ""
    for name, value in sorted(labels.items()):
        pair = f'{name}="{value.translate(_SPECIAL)}"'
        if name < "le":
            lower += f"{pair},"
        else:
            higher += f",{pair}"
    before = f'{{{lower}le="'
    after = f'"{higher}}} '
    of_series = (lower + higher[1:]).removesuffix(",")
    return before, after, f"{{{of_series}}}" if of_series else ""


def _exemplar(exemplar: Exemplar) -> str:
    pairs = [f'{name}="{value}"' for name, value in sorted(exemplar.labels.items())]
    return f" # {{{','.join(pairs)}}} {_number(exemplar.value)} {exemplar.timestamp}\n"


def page_of(metric: Metric, labels: Mapping[str, str]) -> Any:
    """Return a collector of one metric, with these labels on each of its series."""
    if labels:
        # A copy: what never changes, such as the platform, is the collector's own and comes again.
        metric = copy(metric)
        metric.samples = [
            sample._replace(labels={**labels, **sample.labels}) for sample in metric.samples
        ]
    return SimpleNamespace(collect=lambda: [metric])
