"""The detection times that docs/reference/detection-times.md promises are those that promtool sees."""

from __future__ import annotations

# YAML is read without types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from pathlib import Path
from typing import Any, Final

import pytest

from postfacta_slo.proofs.burn_tests import SHARES, outage
from postfacta_slo.proofs.scenario import Assertion, Scenario, firing
from postfacta_slo.rules.alerts import rules_of
from tests.ops.slo.promtool import complaints, own
from tests.slo.files import APP, ROOT, model, objective
from tests.slo.promtool import needs_promtool

PAGE: Final = ROOT / "docs/reference/detection-times.md"
COLUMNS: Final = (
    ("success-rate", "fast", "page"),
    ("success-rate", "slow", "ticket"),
    ("availability", "fast", "page"),
    ("latency-p99", "fast", "page"),
)
NEVER: Final = "never, by design"


def scenario(name: str) -> Scenario:
    return Scenario(model(APP).source, objective(name, APP))


def detected(here: Scenario, tier: str, share: float) -> int | None:
    """After how many seconds a tier surely fires, if it does within half an hour."""
    verdict = here.verdicts(outage(here, share))[tier]
    interval = here.source.scrape_interval
    return (verdict.index(True) - here.history()) * interval if True in verdict else None


def spoken(seconds: int | None) -> str:
    if seconds is None:
        return NEVER
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} m {rest} s" if rest else f"{minutes} m"


def table() -> str:
    heads = [f"`{name}` {tier} ({severity})" for name, tier, severity in COLUMNS]
    rows = [
        [
            f"{share * 100:g} %",
            *(spoken(detected(scenario(name), tier, share)) for name, tier, _ in COLUMNS),
        ]
        for share in SHARES
    ]
    return "\n".join(
        "| " + " | ".join(cells) + " |"
        for cells in (["share", *heads], ["---"] * (1 + len(heads)), *rows)
    )


def test_the_page_holds_the_times_that_follow_from_the_objectives() -> None:
    between = (
        PAGE.read_text().split("<!-- times: begin -->")[1].split("<!-- times: end -->")[0].strip()
    )
    assert between == table()


@pytest.mark.usefixtures("programs")
@needs_promtool
@pytest.mark.parametrize("name", dict.fromkeys(name for name, _, _ in COLUMNS))
def test_promtool_sees_each_alert_at_its_time_and_not_one_scrape_before(
    name: str, tmp_path: Path
) -> None:
    here, tests = scenario(name), []
    for share in SHARES:
        traffic = outage(here, share)
        said = {
            tier: verdict for tier, verdict in here.verdicts(traffic).items() if listed(name, tier)
        }
        severities = {tier.name: tier.severity for tier in here.objective.tiers}
        checks = firing(
            f"{here.alert('ErrorBudgetBurn')},{of_tiers(said)}", said, severities, every=1
        )
        silent = [tier for tier, verdict in said.items() if True not in verdict]
        if silent:
            checks.append(
                here.silence(traffic.scrapes, f"{here.alert('ErrorBudgetBurn')},{of_tiers(silent)}")
            )
        tests.append(here.test(f"{share:g}", here.scraped(traffic), checks))
    groups = own(rules_of(model(APP))["groups"], name)
    assert complaints(tmp_path, groups, file_of(groups, tests)) == ""


def listed(name: str, tier: str) -> bool:
    return any(column[:2] == (name, tier) for column in COLUMNS)


def of_tiers(tiers: Any) -> str:
    return f'burnrate_tier=~"{"|".join(tiers)}"'


def file_of(groups: list[dict[str, Any]], tests: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "evaluation_interval": "15s",
        "group_eval_order": [group["name"] for group in groups],
        "tests": tests,
    }


@pytest.mark.usefixtures("programs")
@needs_promtool
@pytest.mark.parametrize(
    ("alert", "seconds"), [("PostfactaDown", 75), ("PostfactaSLIMetricAbsent", 195)]
)
def test_promtool_sees_that_a_service_is_gone_at_the_time_that_the_page_says(
    alert: str, seconds: int, tmp_path: Path
) -> None:
    groups = own(rules_of(model(APP))["groups"], "postfacta")
    begins, interval = 40, 15
    series = [
        {"series": 'up{job="postfacta",instance="one"}', "values": f"1+0x{begins} 0+0x40"},
        {
            "series": 'http_server_requests_total{job="postfacta"}',
            "values": f"1+1x{begins} stale",
        },
    ]
    asked = [
        Assertion(
            f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
            begins + (seconds + more) // interval,
            found,
        )
        for more, found in ((-interval, {}), (0, {"{}": 1.0}))
    ]
    test = {
        "interval": "15s",
        "input_series": series,
        "promql_expr_test": [
            {
                "expr": check.expression,
                "eval_time": f"{check.sample * interval}s",
                "exp_samples": [
                    {"labels": labels, "value": value} for labels, value in check.values.items()
                ],
            }
            for check in asked
        ],
    }
    assert complaints(tmp_path, groups, file_of(groups, [test])) == ""
    assert f"| `{alert}` | {spoken(seconds)} |" in PAGE.read_text()
