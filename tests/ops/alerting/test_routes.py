"""Each alert reaches a person, and no secret is committed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.kit.every import every
from tests.ops.alerting.rules import DEPLOY, Alert, alerts, needs_alertmanager, ran

CONFIG = DEPLOY / "alertmanager/alertmanager.yml"
EXAMPLES = sorted((DEPLOY / "alertmanager/examples").glob("*.yml"))
RECEIVERS = {"page": "pager", "ticket": "ticket"}


def config() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    return found


@pytest.mark.usefixtures("programs")
@needs_alertmanager
def test_alertmanager_takes_the_configuration() -> None:
    with every() as case:
        for file in (CONFIG, *EXAMPLES):
            with case(file.name):
                done = ran("amtool", "check-config", file)
                assert (done.returncode, "SUCCESS" in done.stdout) == (0, True), done.stdout


@pytest.mark.usefixtures("programs")
@needs_alertmanager
def test_each_alert_goes_where_its_severity_says() -> None:
    with every() as case:
        for one in alerts():
            with case(one):
                expected = (
                    "deadman" if one.name == "Watchdog" else RECEIVERS[one.labels["severity"]]
                )
                labels = {name: text for name, text in one.labels.items() if "{{" not in text}
                told = [
                    f"{name}={text}" for name, text in {**labels, "alertname": one.name}.items()
                ]
                done = ran(
                    "amtool",
                    "config",
                    "routes",
                    "test",
                    f"--config.file={CONFIG}",
                    f"--verify.receivers={expected}",
                    *told,
                )
                assert done.returncode == 0, done.stdout


@pytest.mark.usefixtures("programs")
@needs_alertmanager
def test_an_alert_of_no_severity_is_a_ticket_and_is_not_lost() -> None:
    done = ran(
        "amtool", "config", "routes", "test", f"--config.file={CONFIG}", "alertname=Forgotten"
    )
    assert done.stdout.splitlines()[-1] == "ticket"


def test_pages_of_one_outage_come_together() -> None:
    (pages,) = [route for route in config()["route"]["routes"] if route["receiver"] == "pager"]
    assert pages["group_by"] == ["service"]


def test_secrets_stand_in_files_of_their_own() -> None:
    with every() as case:
        for file in (CONFIG, *EXAMPLES):
            with case(file.name):
                lines = [line.strip(" -") for line in file.read_text().splitlines()]
                keys = {
                    line.partition(":")[0]
                    for line in lines
                    if ":" in line and not line.startswith("#")
                }
                secrets = {
                    key for key in keys if re.search(r"password|secret|token|_key|^url|_url", key)
                }
                assert secrets <= {key for key in secrets if key.endswith("_file")} | {"url"}
                if file == CONFIG:
                    assert "url" not in keys
                assert secrets


def wanted(matchers: list[str]) -> dict[str, str]:
    return dict(re.fullmatch(r'(\w+)=~?"(.*)"', matcher).groups() for matcher in matchers)  # type: ignore[union-attr, misc]


def meets(one: Alert, matchers: list[str]) -> bool:
    labels = {**one.labels, "alertname": one.name}
    return all(
        re.fullmatch(pattern, labels.get(name, "")) for name, pattern in wanted(matchers).items()
    )


def test_what_an_inhibition_compares_stands_on_every_rule_that_it_can_meet() -> None:
    with every() as case:
        for rule in config()["inhibit_rules"]:
            with case(rule["source_matchers"][-1]):
                # What both sides lack counts as equal, and would silence strangers. An instance
                # comes with the series.
                sources = [one for one in alerts() if meets(one, rule["source_matchers"])]
                targets = [one for one in alerts() if meets(one, rule["target_matchers"])]
                assert sources
                assert targets
                for one in (*sources, *targets):
                    assert set(rule["equal"]) - {"instance"} <= one.labels.keys(), one


def test_no_alert_silences_another_service() -> None:
    assert all("service" in rule["equal"] for rule in config()["inhibit_rules"])
