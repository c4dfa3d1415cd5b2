"""Each alert can fire, fires when it should, says what to do, and is silent otherwise."""

from __future__ import annotations

# YAML is read without types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from postfacta_app.app import create_app
from postfacta_app.settings import load_settings
from postfacta_core.telemetry.catalogue import POLICY_METRICS, RUNTIME_METRICS
from tests.kit.every import every
from tests.ops.alerting.rules import (
    DEPLOY,
    Alert,
    alerts,
    groups,
    metrics_of,
    needs_promtool,
    ran,
    recorded,
    rule_files,
)

TESTS = sorted((DEPLOY / "prometheus/tests").glob("*.test.yml"))
BY_HAND = ("postfacta.yml", "infra.yml", "selfmon.yml")
RUNBOOKS = "https://git.example.org/postfacta/src/main/docs/runbooks"
# Made by Prometheus for each target, and by the journey probe.
NOT_OURS = {"up", "probe_success"}


@cache
def cases() -> Sequence[tuple[Path, dict[str, Any]]]:
    return [(file, case) for file in TESTS for case in yaml.safe_load(file.read_text())["tests"]]


def fires(case: dict[str, Any]) -> set[str]:
    found = [
        sample["labels"] for test in case["promql_expr_test"] for sample in test["exp_samples"]
    ]
    return {name for labels in found for name in re.findall(r'alertname="(\w+)"', labels)}


@cache
def exposed() -> frozenset[str]:
    """Name every series that the service can expose, whether it has a value yet or not."""
    telemetry = create_app(load_settings({})).telemetry
    page = telemetry.metrics.render().body.decode()
    names = set(POLICY_METRICS) | set(RUNTIME_METRICS)
    for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", page, re.MULTILINE):
        names |= (
            {f"{name}{end}" for end in ("_bucket", "_count", "_sum")}
            if kind == "histogram"
            else {name}
        )
    return frozenset(names)


def written_by_hand(one: Alert) -> bool:
    return one.file in BY_HAND


@pytest.mark.usefixtures("programs")
@needs_promtool
def test_prometheus_finds_nothing_wrong_with_the_rules() -> None:
    done = ran("promtool", "check", "rules", "--lint=all", "--lint-fatal", *rule_files())
    assert (done.returncode, "SUCCESS" in done.stdout) == (0, True), done.stdout


@pytest.mark.usefixtures("programs")
@needs_promtool
def test_prometheus_finds_nothing_wrong_with_its_configuration() -> None:
    done = ran(
        "promtool",
        "check",
        "config",
        "--lint=all",
        "--lint-fatal",
        DEPLOY / "prometheus/prometheus.yml",
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.usefixtures("programs")
@needs_promtool
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_each_alert_fires_and_is_silent_as_its_tests_say(file: Path) -> None:
    done = ran("promtool", "test", "rules", file, timeout=600)
    assert done.returncode == 0, done.stdout


def test_each_alert_has_a_test_of_firing_and_one_of_silence() -> None:
    with every() as case:
        for name in sorted({one.name for one in filter(written_by_hand, alerts())} - {"Watchdog"}):
            with case(name):
                of_alert = [one for _, one in cases() if re.match(rf"{name}\b", one["name"])]
                assert any(fires(one) == {name} for one in of_alert)
                silent = [one for one in of_alert if "silent" in one["name"]]
                assert silent
                assert not any(fires(one) for one in silent)


def test_each_severity_of_a_certificate_that_expires_is_tested() -> None:
    with every() as case:
        for severity in ("ticket", "page"):
            with case(severity):
                text = (DEPLOY / "prometheus/tests/infra.test.yml").read_text()
                assert re.search(
                    rf'alertname="PostfactaCertificateExpiring",[^}}]*severity="{severity}"', text
                )


def test_the_watchdog_fires_from_the_first_moment() -> None:
    assert [fires(case) for _, case in cases() if case["name"].startswith("Watchdog")] == [
        {"Watchdog"}
    ]


def rendered(case: dict[str, Any], of: Path, folder: Path) -> str:
    """Let promtool show the annotations of what fires, by expecting nothing to."""
    whole = yaml.safe_load(of.read_text())
    wanted = [
        {"eval_time": test["eval_time"], "alertname": name, "exp_alerts": []}
        for test in case["promql_expr_test"]
        for sample in test["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    ]
    turned = {key: value for key, value in case.items() if key != "promql_expr_test"}
    file = folder / "turned.yml"
    tests = [{**turned, "alert_rule_test": wanted}]
    rules = [str((of.parent / name).resolve()) for name in whole["rule_files"]]
    file.write_text(yaml.safe_dump({**whole, "rule_files": rules, "tests": tests}))
    return ran("promtool", "test", "rules", file).stdout


@pytest.mark.usefixtures("programs")
@needs_promtool
def test_what_an_alert_says_can_be_read(tmp_path: Path) -> None:
    with every() as case:
        for file, test in cases():
            if not fires(test):
                continue
            with case(test["name"]):
                said = rendered(test, file, tmp_path)
                for name in fires(test):
                    assert f'runbook_url="{RUNBOOKS}/{name}.md"' in said
                texts = re.findall(r'(?:summary|description)="((?:\\.|[^"\\])*)"', said)
                assert len(texts) >= 2, said
                for text in texts:
                    assert not re.search(
                        r"error expanding|<no value>|%!|NaN|\{\{|  | \.|Inf", text
                    ), text
                    assert text[-1] != " "


def test_each_alert_says_who_what_and_where() -> None:
    with every() as case:
        for one in alerts():
            with case(one):
                assert one.labels["severity"] in {"page", "ticket", "none"}
                assert {"severity", "service", "component"} <= one.labels.keys()
                assert all(one.labels.values())
                assert set(one.annotations) == {
                    "summary",
                    "description",
                    "runbook_url",
                    "dashboard_url",
                }
                assert all(one.annotations.values())
                assert one.annotations["runbook_url"] == f"{RUNBOOKS}/{one.name}.md"
                assert re.fullmatch(
                    r"https://grafana\.example\.org/d/postfacta-\w+",
                    one.annotations["dashboard_url"],
                )


def test_each_alert_leads_to_a_dashboard_that_is_there() -> None:
    with every() as case:
        for one in alerts():
            with case(one):
                uid = one.annotations["dashboard_url"].rpartition("/")[2]
                assert (DEPLOY / f"grafana/dashboards/{uid}.gen.json").is_file()


def test_only_what_users_feel_pages() -> None:
    assert {one.name for one in alerts() if one.labels["severity"] == "page"} == {
        "PostfactaCertificateExpiring",
        "PostfactaDown",
        "PostfactaErrorBudgetBurn",
        "PostfactaJourneyProbeFailing",
        "PostfactaSLIMetricAbsent",
    }


def test_each_alert_looks_at_what_the_service_exposes() -> None:
    with every() as case:
        for one in (one for one in alerts() if one.file == "postfacta.yml"):
            with case(one):
                assert metrics_of(one.expr)
                assert metrics_of(one.expr) <= exposed() | recorded() | NOT_OURS


def test_a_metric_that_is_not_exposed_would_be_noticed() -> None:
    assert metrics_of('rate(postfacta_unicorns_total{job="postfacta"}[5m])') - exposed() == {
        "postfacta_unicorns_total"
    }


def test_the_journey_probe_exposes_what_its_alert_looks_at() -> None:
    assert "probe_success " in (DEPLOY / "bin/journey_probe.py").read_text()


def test_each_alert_looks_at_one_job_that_is_scraped() -> None:
    with every() as case:
        for one in filter(written_by_hand, alerts()):
            with case(one):
                config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
                jobs = set(re.findall(r'job="([^"]+)"', one.expr))
                assert jobs <= {job["job_name"] for job in config["scrape_configs"]}
                assert len(jobs) == (0 if one.name == "Watchdog" else 1)


def test_no_two_groups_of_all_files_have_one_name() -> None:
    names = [group["name"] for file in rule_files() for group in groups(file)]
    assert len(names) == len(set(names))


def test_it_scrapes_as_often_as_the_detection_times_were_computed_for() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    assert config["global"]["scrape_interval"] == config["global"]["evaluation_interval"] == "15s"
