"""A first file of objectives says what it promises, and can be read at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from postfacta_slo.__main__ import METRICS, starter
from postfacta_slo.promise.openslo import read
from postfacta_slo.promise.promql import SloError
from tests.kit.every import every


@pytest.mark.parametrize("metrics", METRICS)
def test_it_promises_success_and_speed(metrics: str) -> None:
    model = read(yaml.safe_load_all(starter("shop", "web", metrics)))
    assert [(one.name, one.target) for one in model.objectives] == [
        ("requests-succeed", 0.995),
        ("requests-are-quick", 0.99),
    ]
    assert {tier.name for one in model.objectives for tier in one.tiers} == {
        "fast",
        "medium",
        "slow",
        "long",
    }
    assert model.services[0].job == "web"


def test_what_is_no_failure_of_the_service_burns_no_budget() -> None:
    ours = (Path(__file__).parents[2] / "deploy/slo/postfacta.openslo.yaml").read_text()
    excluded = (
        'traffic="user"',
        'http_response_status_code!="499"',
        'http_route!~"/healthz.*|/metrics"',
    )
    assert [condition for condition in excluded if condition not in ours] == []
    counted = re.findall(
        r"http_server_request_duration_seconds_\w+\{[^}]*\}", starter("shop", "web", "postfacta")
    )
    assert counted
    with every() as case:
        for selector in counted:
            with case(selector):
                assert [condition for condition in excluded if condition not in selector] == []


@pytest.mark.parametrize(
    ("service", "job", "why"),
    [
        ("a shop", "web", "needs a name"),
        ("shop", "", "job"),
        ("shop", 'a"b', "without quotes"),
        ("shop", "a\nb", "quotes"),
    ],
)
def test_a_name_that_would_break_the_file_is_refused(service: str, job: str, why: str) -> None:
    with pytest.raises(SloError, match=why):
        starter(service, job, "postfacta")
