"""Promtool agrees with the arithmetic.

On the app's own objectives, on another service's, and on any others.
"""

from __future__ import annotations

# YAML is read without types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings

from postfacta_slo.__main__ import starter
from postfacta_slo.promise.openslo import read
from postfacta_slo.proofs.files import proofs_of
from postfacta_slo.rules.alerts import rules_of
from tests.ops.slo.promtool import complaints, cost, of, own, requests
from tests.slo.files import APP, ORDERS, Documents, model, some_documents
from tests.slo.promtool import needs_promtool

pytestmark = [needs_promtool, pytest.mark.long]

FILES: Final = {"app": APP, "orders": ORDERS}
WHOSE: Final = [
    (name, whose)
    for name, file in FILES.items()
    for whose in [
        *(one.name for one in model(file).services),
        *(one.name for one in model(file).objectives),
    ]
]


@pytest.mark.parametrize(("name", "whose"), WHOSE)
def test_every_alert_fires_in_time_stops_in_time_and_is_silent_otherwise(
    name: str, whose: str, tmp_path: Path
) -> None:
    promised = model(FILES[name])
    proofs = [of(proofs_of(promised, slow=slow), whose) for slow in (False, True)]
    assert sum(bool(proof["tests"]) for proof in proofs) == 1
    for proof in proofs:
        # A service is proved with all of its rules: nothing else fires while it is well.
        groups = rules_of(promised)["groups"]
        mine = groups if whose in {one.name for one in promised.services} else own(groups, whose)
        assert complaints(tmp_path, mine, proof) == ""


def test_rules_for_a_rehearsal_hold_in_a_fifteenth_of_the_time(tmp_path: Path) -> None:
    promised = model(APP)
    proof = of(proofs_of(promised, compress=15), "success-rate")
    assert proof["evaluation_interval"] == "1s"
    groups = own(rules_of(promised, compress=15)["groups"], "success-rate")
    assert complaints(tmp_path, groups, proof) == ""
    assert complaints(tmp_path, own(rules_of(promised)["groups"], "success-rate"), proof)


# Our own requests: what each is called, its labels, and whether an objective counts it, and as
# what.
GOOD, BAD, OUT = "good", "bad", "out"
USER: Final = {
    "job": "postfacta",
    "instance": "one",
    "traffic": "user",
    "http_request_method": "GET",
    "http_route": "/api/v1/incidents",
    "http_response_status_code": "200",
    "outcome": "2xx",
}
COUNTS: Final = [
    ("an answer", {}, GOOD, True),
    (
        "a crash",
        {"http_response_status_code": "500", "error_type": "ValueError", "outcome": "5xx"},
        BAD,
        False,
    ),
    ("an answer cut short", {"error_type": "ValueError", "outcome": "failed"}, BAD, False),
    ("a stream", {"outcome": "stream"}, GOOD, False),
    (
        "shed",
        {
            "http_response_status_code": "503",
            "outcome": "5xx",
            "http_route": "_prerouting",
            "error_type": "shed",
        },
        BAD,
        False,
    ),
    (
        "draining",
        {"http_response_status_code": "503", "outcome": "5xx", "error_type": "draining"},
        BAD,
        False,
    ),
    (
        "an open breaker",
        {"http_response_status_code": "503", "outcome": "5xx", "error_type": "breaker_open"},
        BAD,
        False,
    ),
    (
        "no connection",
        {"http_response_status_code": "503", "outcome": "5xx", "error_type": "pool_timeout"},
        BAD,
        False,
    ),
    (
        "too late",
        {"http_response_status_code": "504", "outcome": "5xx", "error_type": "deadline_exceeded"},
        BAD,
        False,
    ),
    (
        "a client's own limit",
        {"http_response_status_code": "429", "outcome": "4xx", "http_route": "_prerouting"},
        GOOD,
        False,
    ),
    ("not signed in", {"http_response_status_code": "401", "outcome": "4xx"}, GOOD, True),
    ("forbidden", {"http_response_status_code": "403", "outcome": "4xx"}, GOOD, True),
    (
        "not found",
        {"http_response_status_code": "404", "http_route": "", "outcome": "4xx"},
        GOOD,
        True,
    ),
    ("in conflict", {"http_response_status_code": "409", "outcome": "4xx"}, GOOD, True),
    ("changed meanwhile", {"http_response_status_code": "412", "outcome": "4xx"}, GOOD, True),
    ("invalid", {"http_response_status_code": "422", "outcome": "4xx"}, GOOD, True),
    (
        "client left",
        {
            "http_response_status_code": "499",
            "error_type": "client_disconnected",
            "outcome": "left",
        },
        OUT,
        False,
    ),
    (
        "the caller's own time was up",
        {"http_response_status_code": "499", "error_type": "callers_deadline", "outcome": "left"},
        OUT,
        False,
    ),
    ("a load test", {"traffic": "load"}, OUT, False),
    (
        "a failed load test",
        {
            "traffic": "load",
            "http_response_status_code": "503",
            "outcome": "5xx",
            "error_type": "shed",
        },
        OUT,
        False,
    ),
    (
        "the journey probe",
        {
            "traffic": "synthetic",
            "http_response_status_code": "500",
            "outcome": "5xx",
            "error_type": "x",
        },
        OUT,
        False,
    ),
    (
        "not ready",
        {
            "http_route": "/healthz/ready",
            "http_response_status_code": "503",
            "outcome": "5xx",
            "error_type": "503",
        },
        OUT,
        False,
    ),
    ("a scrape", {"http_route": "/metrics"}, OUT, False),
]


def counted(
    labels: dict[str, str], verdict: str, recorded: list[tuple[str, str]], *, for_latency: bool
) -> dict[str, Any]:
    """A test in which a kind of request comes ten times as often as ordinary ones, and is slow."""
    durations = "http_server_request_duration_seconds"
    usual = USER | {"http_request_method": "POST"}
    other = USER | labels
    share = {GOOD: 0.0, BAD: 10 / 11, OUT: 0.0}[verdict]
    slow = 10 / 11 if for_latency else 0.0
    series: list[tuple[str, str]] = []
    for each, all_of_them, quick in ((usual, "300", "300"), (other, "3000", "0")):
        of_counter = labels_of(each, without="outcome")
        of_durations = labels_of(each, without="http_response_status_code error_type")
        series += [
            (f"http_server_requests_total{{{of_counter}}}", f"1000+{all_of_them}x40"),
            (f"{durations}_count{{{of_durations}}}", f"1000+{all_of_them}x40"),
            (f'{durations}_bucket{{{of_durations},le="0.2"}}', f"1000+{quick}x40"),
            (f'{durations}_bucket{{{of_durations},le="0.5"}}', f"1000+{quick}x40"),
        ]
    values = {"share": share, "slow": slow, "bad": float(share > 0)}
    asked = [(expression, values[what]) for expression, what in recorded]
    checks = [
        {
            "expr": f"count(abs({expression} - {value!r}) < 1e-9)",
            "eval_time": "10m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for expression, value in asked
    ]
    return {"interval": "15s", "input_series": requests(series), "promql_expr_test": checks}


def labels_of(labels: dict[str, str], *, without: str) -> str:
    shown = {name: value for name, value in labels.items() if name not in without.split()}
    return ",".join(f'{name}="{value}"' for name, value in shown.items())


OURS: Final = [
    ('slo:sli_error:ratio_rate5m{slo="success-rate"}', "share"),
    ('slo:slice_error:ratio{slo="latency-p95"}', "slow"),
    ('slo:slice_error:ratio{slo="latency-p99"}', "slow"),
    ('slo:slice_bad:bool{slo="availability"}', "bad"),
]
THEIRS: Final = [
    ('slo:sli_error:ratio_rate5m{slo="requests-succeed"}', "share"),
    ('slo:sli_error:ratio_rate5m{slo="requests-are-quick"}', "slow"),
]


@pytest.mark.parametrize("file", ["app", "starter"])
def test_each_kind_of_request_counts_as_the_objectives_say(file: str, tmp_path: Path) -> None:
    written = list(yaml.safe_load_all(starter("shop", "postfacta", "postfacta")))
    rules = rules_of(model(APP) if file == "app" else read(written))["groups"]
    recorded = OURS if file == "app" else THEIRS
    up = {"series": 'up{job="postfacta",instance="one"}', "values": "1+0x40"}
    tests = []
    for name, labels, verdict, for_latency in COUNTS:
        test = counted(labels, verdict, recorded, for_latency=for_latency)
        tests.append({**test, "name": name, "input_series": [*test["input_series"], up]})
    proof = {
        "evaluation_interval": "15s",
        "group_eval_order": [group["name"] for group in rules],
        "tests": tests,
    }
    assert complaints(tmp_path, rules, proof) == ""


@pytest.mark.parametrize(
    ("find", "put"),
    [
        (',http_route!="_prerouting"', ""),
        (',http_response_status_code!="499"', ""),
        (',traffic="user"', ""),
        (',error_type!=""', ',http_response_status_code=~"5.."'),
        (',outcome=~"2xx|3xx|4xx"', ""),
        (',outcome=~"2xx|3xx|4xx"', ',outcome=~"2xx|3xx|4xx|stream"'),
        ("/healthz.*|/metrics", "/healthz.*"),
    ],
)
def test_a_kind_of_request_that_counts_otherwise_is_noticed(
    find: str, put: str, tmp_path: Path
) -> None:
    rules = rules_of(model(APP))["groups"]
    tests = [
        counted(labels, verdict, OURS, for_latency=slow) for _, labels, verdict, slow in COUNTS
    ]
    proof = {
        "evaluation_interval": "15s",
        "tests": tests,
        "group_eval_order": [group["name"] for group in rules],
    }
    for group in rules:
        for rule in group["rules"]:
            rule["expr"] = rule["expr"].replace(find, put)
    assert complaints(tmp_path, rules, proof)


# It may not look for the smallest failure: each look takes promtool some seconds.
@settings(
    max_examples=3,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(some_documents())
def test_whatever_is_promised_is_kept_watch_over(
    tmp_path_factory: pytest.TempPathFactory, found: Documents
) -> None:
    # A scrape each second would only make it long.
    found[0]["spec"]["connectionDetails"] |= {"scrapeInterval": "15s", "evaluationInterval": "15s"}
    promised = read(found)
    for slow in (False, True):
        # What is drawn may count the same as good and as all, or what no request can be: that is
        # not proved.
        proof = proofs_of(promised, slow=slow)
        # Outages take promtool minutes, with tiers of weeks; this is about what is recorded and
        # left out.
        short = [test for test in proof["tests"] if cost(test) <= 200]
        where = tmp_path_factory.mktemp("any")
        assert complaints(where, rules_of(promised)["groups"], {**proof, "tests": short}) == ""
