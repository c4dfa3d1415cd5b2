"""Export the counts of policies as metrics, read at the scrape.

A policy is called many times a second, and scraped four times a minute: it counts in plain numbers, announces itself
once by `PolicyCreated`, and is read at the scrape. So the request path pays no lock and no label. What the process
can report at any time, such as its number of tasks, is exported in the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Final, cast

from prometheus_client.registry import Collector

from ..events import PolicyCreated, Sample, Tally, weakly
from .catalogue import INSTRUMENTS, POLICY_METRICS, RUNTIME_METRICS
from .families import MetricFamily, empty

_LOG: Final = logging.getLogger("postfacta")
_GAUGES: Final = {
    name: about for name, about in INSTRUMENTS.items() if not about.buckets and not name.endswith("_total")
}
_METRICS: Final = {**_GAUGES, **POLICY_METRICS, **RUNTIME_METRICS}


class PolicyCollector(Collector):
    """Reads every policy at a scrape, and first the gauges of `Metrics`. It is a collector of prometheus-client.

    A policy that raises, or gives a number that is none, costs its own numbers, and is logged once. `overflow` is called
    for each policy above the cap: their names are from the code, so that more of them are a mistake.
    """

    def __init__(self, cap: int, *, gauges: Tally, overflow: Callable[[], object]) -> None:
        self._most = cap + 1
        self._overflow = overflow
        self._asked: dict[tuple[int, int], tuple[str, Callable[[], Tally | None]]] = {
            (0, 0): ("metrics", lambda: gauges)
        }
        self._broken: set[str] = set()

    def add(self, event: PolicyCreated) -> None:
        """Read this one too from now on, while it exists. Adding it again changes nothing."""
        tally = event.tally
        key = (id(getattr(tally, "__self__", None)), id(getattr(tally, "__func__", tally)))
        if key in self._asked and self._asked[key][1]() is not None:
            return
        if len(self._asked) >= self._most:
            self._living()  # forgets the dead ones, such as one at whose address this one is
        if len(self._asked) < self._most:
            self._asked[key] = event.policy, weakly(tally)
        else:
            self._overflow()

    def describe(self) -> Iterator[MetricFamily]:
        for name, about in _METRICS.items():
            yield empty(name, about)

    def collect(self) -> Iterator[MetricFamily]:
        """Read all numbers. Those of policies with the same name are merged, see `Instrument.merge`."""
        # Ours are shown without a series too, so that a rule's names can be looked up before there is one.
        numbers: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in _GAUGES}
        for policy, tally in self._living():
            for sample in self._read(policy, tally):
                of_metric, labels = numbers.setdefault(sample.metric, {}), tuple(sample.labels)
                known = of_metric.get(labels)
                merge = _METRICS[sample.metric].merge
                of_metric[labels] = sample.value if known is None else merge(known, sample.value)
        for name, values in numbers.items():
            family = empty(name, _METRICS[name])
            for labels, value in values.items():
                family.add_metric(labels, value)
            yield family

    def _living(self) -> list[tuple[str, Tally]]:
        living: list[tuple[str, Tally]] = []
        for key, (policy, find) in tuple(self._asked.items()):
            if (tally := find()) is None:
                self._asked.pop(key, None)
            else:
                living.append((policy, tally))
        return living

    def _read(self, policy: str, tally: Tally) -> list[Sample]:
        """Read its numbers: those that can be shown."""
        # A policy with a fault of its own must not take the scrape of all others with it.
        try:
            samples = [sample for sample in tally() if sample.metric in _METRICS]
            bad = [sample for sample in samples if not _can_be_shown(sample)]
        except Exception as error:  # noqa: BLE001 - a tally is foreign code, and may raise anything
            self._report(policy, repr(error))
            return []
        if bad:
            self._report(policy, f"its labels must be texts and its value a number: {bad[0]!r}")
        return [sample for sample in samples if sample not in bad]

    def _report(self, policy: str, why: str) -> None:
        if policy not in self._broken:
            self._broken.add(policy)
            _LOG.error("metrics.policy_failed", extra={"policy": policy, "error": why})


def _can_be_shown(sample: Sample) -> bool:
    labels, value = cast("tuple[object, ...]", sample.labels), cast("object", sample.value)
    return (
        len(labels) == len(_METRICS[sample.metric].labels)
        and all(isinstance(label, str) for label in labels)
        and isinstance(value, int | float)
    )
