"""Files of objectives for the tests.

The app's own, another service's, and any that Hypothesis can think of.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from hypothesis import strategies as st

from postfacta_slo.promise.model import Model, Objective
from postfacta_slo.promise.openslo import read

__all__ = [
    "APP",
    "DATA",
    "ORDERS",
    "Documents",
    "changed",
    "documents",
    "model",
    "objective",
    "some_documents",
]

ROOT: Final = Path(__file__).parents[2]
APP: Final = ROOT / "deploy/slo/postfacta.openslo.yaml"
DATA: Final = Path(__file__).parent / "data"
ORDERS: Final = DATA / "orders.openslo.yaml"

Documents = list[dict[str, Any]]


def documents(file: Path = ORDERS) -> Documents:
    return copy.deepcopy(_parsed(file.read_text()))


def model(file: Path = ORDERS) -> Model:
    return _model(file.read_text())


@cache
def _parsed(text: str) -> Documents:
    return list(yaml.safe_load_all(text))


@cache
def _model(text: str) -> Model:
    return read(copy.deepcopy(_parsed(text)))


def objective(name: str, file: Path = ORDERS) -> Objective:
    return next(one for one in model(file).objectives if one.name == name)


def changed(which: str, keys: Sequence[str | int], value: object, file: Path = ORDERS) -> Documents:
    """Return the file's documents with one value put in place of another; None takes the key out.

    Args:
        which: Kind and name of the document, such as `SLO queue-is-short`.
        keys: The way from the document to the value.
        value: The new value.
        file: Which file.
    """
    found = documents(file)
    kind, name = which.split()
    one: Any = next(d for d in found if d["kind"] == kind and d["metadata"]["name"] == name)
    for key in keys[:-1]:
        one = one[key]
    if value is None:
        del one[keys[-1]]
    else:
        one[keys[-1]] = value
    return found


NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,12}[a-z0-9])?", fullmatch=True)
METRICS = st.from_regex(r"[a-z_][a-z0-9_]{0,20}_total", fullmatch=True)
# Whatever people may write: braces that a template would read, quotes, backslashes, other
# alphabets.
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=30),
    st.sampled_from(
        ["{{ $value }}", "{{", "}}", 'say "no"', "a\\b", "50 %", "é", "|", "$labels", "{alert}"]
    ),
)
LABELS = st.from_regex(r"[a-z][a-z_]{0,8}_", fullmatch=True)


@st.composite
def _selectors(draw: st.DrawFn) -> str:
    matchers = draw(st.dictionaries(LABELS, TEXTS, max_size=3))
    quoted = (
        (label, draw(st.sampled_from(["=", "!="])), text.replace("\\", "\\\\").replace('"', '\\"'))
        for label, text in matchers.items()
    )
    inside = ", ".join(f'{label}{op}"{text}"' for label, op, text in quoted)
    return f"{draw(METRICS)}{{{inside}}}"


def _metric(query: str, **more: object) -> dict[str, Any]:
    return {"metricSource": {"metricSourceRef": "main", "spec": {"query": query, **more}}}


@st.composite
def _indicators(draw: st.DrawFn, *, counter: bool) -> dict[str, Any]:
    if not counter and draw(st.booleans()):
        how: dict[str, Any] = draw(
            st.sampled_from([{"aggregate": "max"}, {"aggregate": "sum"}, {"quantile": 0.95}])
        )
        query = "took_seconds_bucket" if "quantile" in how else draw(_selectors())
        return {"thresholdMetric": _metric(query, **how)}
    which = draw(st.sampled_from(["good", "bad"]))
    ratio = {"counter": counter or draw(st.booleans()), which: _metric(draw(_selectors()))}
    return {"ratioMetric": {**ratio, "total": _metric(draw(_selectors()))}}


@st.composite
def _policies(
    draw: st.DrawFn, place: int, target: float, period: int, floor: int
) -> dict[str, Any]:
    hours = draw(st.integers(1, max(1, period // 2))) + place
    factor = draw(st.floats(0.5, 0.9 / (1 - target)))
    notes = {
        "prometheus/tier": f"tier{place}",
        "prometheus/short-window": f"{draw(st.integers(2, 59))}m",
        "prometheus/min-failures": str(floor),
    }
    severity = draw(st.sampled_from(["page", "ticket"]))
    wait = draw(st.integers(0, 90))
    condition = {"threshold": factor, "lookbackWindow": f"{hours}h", "alertAfter": f"{wait}m"}
    return {
        "metadata": {"name": f"policy-{place}"},
        "spec": {
            "alertWhenBreaching": True,
            "alertWhenNoData": draw(st.booleans()),
            "conditions": [
                {
                    "metadata": {"name": f"condition-{place}", "annotations": notes},
                    "spec": {"severity": severity, "condition": {"kind": "burnrate", **condition}},
                }
            ],
            "notificationTargets": [{"targetRef": severity}],
        },
    }


@st.composite
def _slos(draw: st.DrawFn, name: str, service: str) -> dict[str, Any]:
    target = draw(st.floats(0.5, 0.9999))
    sliced, counter = draw(st.booleans()), draw(st.booleans())
    days = draw(st.integers(1, 60))
    terms: dict[str, Any] = {"target": target}
    notes: dict[str, str] = {}
    if sliced:
        terms |= {
            "timeSliceTarget": draw(st.floats(0.1, 1)),
            "timeSliceWindow": f"{draw(st.integers(1, 90))}m",
        }
        notes["prometheus/slice-needs-instance"] = draw(st.sampled_from(["true", "false"]))
        if draw(st.booleans()):
            notes["prometheus/slice-probe"] = 'probe_success{job="probe"}'
        if counter:
            notes["prometheus/slice-min-requests"] = str(draw(st.integers(0, 1000)))
    indicator = draw(_indicators(counter=counter))
    if "thresholdMetric" in indicator:
        edge = "quantile" in indicator["thresholdMetric"]["metricSource"]["spec"]
        # Nobody promises a number of three hundred digits, of which promtool keeps fewer.
        anything = st.floats(-1e6, 1e6).map(lambda it: round(it, 6))
        value = draw(st.sampled_from([0.1, 1.0, 2.5]) if edge else anything)
        # Beyond the last edge nothing is told, so that these could never be missed, or met.
        is_last = edge and value == 2.5
        ops = ["lt", "gte"] if is_last else ["lte", "lt", "gte", "gt"]
        terms |= {"op": draw(st.sampled_from(ops)), "value": value}
    tiers = draw(st.integers(0, 3))
    floor = draw(st.integers(0, 50)) if counter and not sliced else 0
    return {
        "apiVersion": "openslo/v1",
        "kind": "SLO",
        "metadata": {
            "name": name,
            "displayName": draw(TEXTS),
            "annotations": notes,
            "labels": draw(st.dictionaries(LABELS, TEXTS, max_size=2)),
        },
        "spec": {
            "description": draw(TEXTS),
            "service": service,
            "indicator": {"metadata": {"name": draw(NAMES)}, "spec": indicator},
            "timeWindow": [{"duration": f"{days}d", "isRolling": True}],
            "budgetingMethod": "Timeslices" if sliced else "Occurrences",
            "objectives": [terms],
            "alertPolicies": [
                draw(_policies(n, target, 24 * days - 3, floor)) for n in range(tiers)
            ],
        },
    }


def _head(kind: str, name: str, spec: Mapping[str, Any], **meta: object) -> dict[str, Any]:
    return {
        "apiVersion": "openslo/v1",
        "kind": kind,
        "metadata": {"name": name, **meta},
        "spec": dict(spec),
    }


def source(query: str, **more: object) -> dict[str, Any]:
    """Write a query, as a part of an indicator."""
    return {"metricSource": {"type": "Prometheus", "spec": {"query": query, **more}}}


def promised(indicator: Mapping[str, Any], **terms: object) -> Documents:
    """Write a file with one objective, of 99.5 %, and one alert.

    Whatever may be left out is left out.
    """
    burn = {"kind": "burnrate", "threshold": 14.4, "lookbackWindow": "1h", "alertAfter": "2m"}
    policy = {
        "metadata": {"name": "fast"},
        "spec": {
            "alertWhenBreaching": True,
            "alertWhenNoData": True,
            "conditions": [
                {"metadata": {"name": "fast"}, "spec": {"severity": "page", "condition": burn}}
            ],
            "notificationTargets": [{"targetRef": "page"}],
        },
    }
    slo = {
        "service": "shop",
        "indicator": {"metadata": {"name": "sold"}, "spec": indicator},
        "timeWindow": [{"duration": "30d", "isRolling": True}],
        "budgetingMethod": "Timeslices" if "timeSliceTarget" in terms else "Occurrences",
        "objectives": [{"target": 0.995, **terms}],
        "alertPolicies": [policy],
    }
    targets = [
        _head("AlertNotificationTarget", name, {"target": name}) for name in ("page", "ticket")
    ]
    return [*targets, _head("SLO", "shop-sells", slo)]


@st.composite
def some_documents(draw: st.DrawFn) -> Documents:
    """Draw a file with some services and objectives of any kind, which has to be accepted."""
    details = {
        "scrapeInterval": draw(st.sampled_from(["1s", "5s", "15s"])),
        "evaluationInterval": draw(st.sampled_from(["1s", "10s", "15s"])),
        "histograms": {"took_seconds": [0.1, 1, 2.5]},
    }
    found = [
        _head("DataSource", "main", {"type": "Prometheus", "connectionDetails": details}),
        _head("AlertNotificationTarget", "page", {"target": "page"}),
        _head("AlertNotificationTarget", "ticket", {"target": "ticket"}),
    ]
    for service in draw(st.lists(NAMES, min_size=1, max_size=2, unique=True)):
        notes = {
            "prometheus/job": draw(TEXTS),
            "prometheus/runbook-url": "https://example.com/{alert}",
            "prometheus/dashboard-url": "https://example.com/{{slo}}",
        }
        found.append(_head("Service", service, {}, displayName=draw(TEXTS), annotations=notes))
        slos = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
        found += [draw(_slos(f"{service}-{slo}"[:60].rstrip("-"), service)) for slo in slos]
    if not any(one["spec"].get("alertPolicies") for one in found):
        del found[2]  # nobody would tell it anything
    return found
