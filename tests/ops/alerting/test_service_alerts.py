"""The alerts of a service of another name are PostFacta's: each fires when its own does, and is silent when that is."""

from __future__ import annotations

# YAML is written without types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.alerts import alerts_of, renamed
from deploy.grafana.generate import main
from postfacta_slo.promise.model import Service
from tests.ops.alerting.rules import DEPLOY, needs_promtool, ran
from tests.ops.slo.promtool import complaints

BILLING = Service(
    name="billing-api", job="payments", runbook_url="https://wiki.example.org/{alert}"
)
PROOFS: Any = yaml.safe_load((DEPLOY / "prometheus/tests/postfacta.test.yml").read_text())
BUSINESS = {
    "BillingApiJourneyProbeFailing",
    "BillingApiSchemaMismatch",
    "BillingApiDurabilityOff",
    "BillingApiAuthFailureSurge",
    "BillingApiSecretTooOld",
    "BillingApiBusinessMetricsStale",
}


def rules_of(text: str) -> dict[str, Any]:
    groups: Any = yaml.safe_load(text)["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def changed(content: Any) -> Any:
    """Return tests with the texts of the other service."""
    if isinstance(content, dict):
        return {key: changed(value) for key, value in content.items()}
    if isinstance(content, list):
        return [changed(item) for item in content]
    return renamed(content, BILLING) if isinstance(content, str) else content


def test_all_but_those_on_business_are_taken() -> None:
    own = yaml.safe_load((DEPLOY / "prometheus/rules/postfacta.yml").read_text())["groups"]
    names = {renamed(rule["alert"], BILLING) for group in own for rule in group["rules"]}
    rules = rules_of(alerts_of(BILLING))
    assert rules.keys() == names - BUSINESS
    assert {"BreakerOpen", "PoolSaturated", "EventLoopLag", "LoadShedding"} <= {
        name.removeprefix("BillingApi") for name in rules
    }


def test_nothing_names_another_service() -> None:
    for name, rule in rules_of(alerts_of(BILLING)).items():
        texts = [rule["expr"], *rule["annotations"].values(), *rule["labels"].values()]
        assert not [text for text in texts if "PostFacta" in text or 'job="postfacta' in text], name
        assert rule["labels"]["service"] == "billing-api"
        assert rule["annotations"]["runbook_url"] == f"https://wiki.example.org/{name}"
    assert "runbook_url" not in alerts_of(Service(name="billing", job="billing"))


@needs_promtool
@pytest.mark.usefixtures("programs")
def test_each_fires_and_is_silent_as_its_own_does(tmp_path: Path) -> None:
    groups = yaml.safe_load(alerts_of(BILLING))["groups"]
    proofs = changed(PROOFS)
    rules = rules_of(alerts_of(BILLING))
    tests = [test for test in proofs["tests"] if test["name"].split()[0] in rules]
    assert {test["name"].split()[0] for test in tests} == rules.keys()
    proof = {"evaluation_interval": proofs["evaluation_interval"], "tests": tests}
    assert not complaints(tmp_path, groups, proof)
    # A threshold that is off by a factor is noticed.
    broken = yaml.safe_load(alerts_of(BILLING).replace("> 0.25", "> 25"))["groups"]
    assert "EventLoopLag" in complaints(tmp_path, broken, proof)


@needs_promtool
@pytest.mark.usefixtures("programs")
def test_one_command_writes_dashboards_and_alerts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "billing.alerts.yml"
    words = ["--service", "billing", "--out", str(tmp_path / "boards"), "--rules", str(file)]
    assert main([*words, "--runbooks", "https://wiki.example.org/runbooks/"]) == 0
    assert capsys.readouterr().out.split()[-1] == str(file)
    rules = rules_of(file.read_text())
    address = rules["BillingBreakerOpen"]["annotations"]["runbook_url"]
    assert address == "https://wiki.example.org/runbooks/BillingBreakerOpen"
    done = ran("promtool", "check", "rules", "--lint=all", "--lint-fatal", str(file))
    assert done.returncode == 0, done.stdout
