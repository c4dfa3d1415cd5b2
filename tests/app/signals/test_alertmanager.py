"""What a real Alertmanager sent becomes the signals that the design names, whatever is wrong with one of its alerts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from postfacta_app.principal import ANONYMOUS, Principal
from postfacta_app.settings import Settings
from postfacta_app.signals.intake import Intake, Webhook, read_alerts
from postfacta_app.signals.model import Fact, ItemResult, Link
from tests.app.signals.conftest import Body, recorded

TOKEN = Principal(
    actor="token:1", name="am", scopes=frozenset({"signals:write"}), source="alertmanager"
)
STARTED = "2026-11-26T14:14:32.007125Z"
BURN = f"d3c81fccc5a5fae0:{STARTED}"


def read(
    body: Body, *, principal: Principal = TOKEN, labels: tuple[str, str] = ("service", "env")
) -> Sequence[Fact | ItemResult]:
    settings = Settings.model_validate(
        {"alert_service_label": labels[0], "alert_environment_label": labels[1]}
    )
    return read_alerts(Webhook.model_validate(body), principal, Intake(settings))


def facts(body: Body, labels: tuple[str, str] = ("service", "env")) -> list[Fact]:
    items = read(body, labels=labels)
    found = [it for it in items if isinstance(it, Fact)]
    assert len(found) == len(items), items
    return found


def changed(body: Body, **fields: object) -> Body:
    """Change the first alert."""
    first, *others = body["alerts"]
    return body | {"alerts": [{**first, **fields}, *others]}


def test_a_firing_alert_is_one_signal_with_all_that_was_said_of_it() -> None:
    body = recorded("firing")
    (fact,) = facts(body)
    assert (fact.source, fact.external_id, fact.index) == ("alertmanager", f"{BURN}:firing", 0)
    new = fact.new
    assert (new.kind, new.title) == ("alert_firing", "PostfactaErrorBudgetBurn")
    assert new.occurred_at == datetime(2026, 11, 26, 14, 14, 32, 7125, tzinfo=UTC)
    assert new.body == "The burn rate is 14.4."
    assert (new.services, new.environment) == (["checkout-api"], "production")
    assert new.links == [
        Link(
            title="Prometheus",
            url="http://prometheus.example.org:9090/graph?g0.expr=burn+%3E+14&g0.tab=1",
        ),
        Link(
            title="Runbook", url="https://git.example.org/docs/runbooks/PostfactaErrorBudgetBurn.md"
        ),
    ]
    assert new.payload == {
        "labels": body["alerts"][0]["labels"],
        "annotations": body["alerts"][0]["annotations"],
        "groupKey": '{}:{service="Checkout API"}',
        "externalURL": "http://alertmanager-a.example.org:9093",
    }


def test_a_resolved_alert_is_also_its_beginning() -> None:
    firing, resolved = facts(recorded("resolved"))
    (before,) = facts(recorded("firing"))
    assert (firing.key, firing.sha256) == (before.key, before.sha256)
    assert resolved.external_id == f"{BURN}:resolved"
    assert resolved.new.kind == "alert_resolved"
    assert resolved.new.occurred_at == datetime(2026, 11, 26, 14, 16, 35, 716563, tzinfo=UTC)
    assert resolved.sha256 != firing.sha256


def test_an_alert_of_grafana_has_the_links_that_it_sent() -> None:
    (fact,) = facts(recorded("grafana"))
    assert (fact.new.kind, fact.new.title) == ("alert_firing", "Checkout is slow")
    assert fact.new.occurred_at == datetime(2026, 10, 12, 7, 51, 3, 157076, tzinfo=UTC)
    assert [link.title for link in fact.new.links] == ["Grafana", "Dashboard", "Silence", "Runbook"]


@pytest.mark.parametrize("odd", [None, 7, ["x"], {"a": 1}, "javascript:x"])
def test_no_link_of_an_alert_loses_the_alert(odd: object) -> None:
    names = ("generatorURL", "dashboardURL", "panelURL", "silenceURL")
    (fact,) = facts(changed(recorded("grafana"), **dict.fromkeys(names, odd)))
    assert [link.title for link in fact.new.links] == ["Runbook"]


@pytest.mark.parametrize("name", ["firing-other-replica", "changed-annotations"])
def test_another_replica_and_another_wording_are_the_same_fact(name: str) -> None:
    (first,), (again,) = facts(recorded("firing")), facts(recorded(name))
    assert (again.key, again.sha256) == (first.key, first.sha256)
    assert again.new.payload != first.new.payload


def test_other_labels_or_another_time_are_other_content() -> None:
    (first,) = facts(recorded("firing"))
    labels = recorded("firing")["alerts"][0]["labels"]
    (other,) = facts(changed(recorded("firing"), labels=labels | {"severity": "ticket"}))
    assert (other.key, other.sha256 == first.sha256) == (first.key, False)
    ends = [
        facts(changed(recorded("resolved"), endsAt=f"2026-11-26T14:17:{second}Z"))[1]
        for second in ("00", "01")
    ]
    assert ends[0].key == ends[1].key
    assert ends[0].sha256 != ends[1].sha256


def test_a_truncated_notification_gives_the_alerts_that_it_has() -> None:
    assert Webhook.model_validate(recorded("truncated")).lost == 3
    found = facts(recorded("truncated"))
    assert [(it.index, it.external_id) for it in found] == [
        (0, f"0fd8967fa51d1f84:{STARTED}:firing"), (1, f"c33acfd176556cb5:{STARTED}:firing"),
    ]  # fmt: skip


BAD: list[tuple[dict[str, object], str]] = [
    ({"status": "pending"}, "/status"),
    ({"labels": {"a": 1}}, "/labels/a"),
    ({"labels": None}, "/labels"),
    ({"fingerprint": ""}, "/fingerprint"),
    ({"startsAt": "yesterday"}, "/startsAt"),
    ({"endsAt": 7}, "/endsAt"),
    ({"annotations": {"a": "x" * 70_000}}, "/payload"),
]


@pytest.mark.parametrize(("fields", "pointer"), BAD, ids=lambda it: str(it)[:40])
def test_a_bad_alert_is_rejected_and_stops_no_other(
    fields: dict[str, object], pointer: str
) -> None:
    rejected, good = read(changed(recorded("truncated"), **fields))
    assert isinstance(rejected, ItemResult)
    assert (rejected.index, rejected.result, rejected.errors[0].pointer) == (0, "rejected", pointer)
    assert isinstance(good, Fact)
    assert good.index == 1


@pytest.mark.parametrize("alert", [None, 1, "x", [], {}])
def test_what_is_no_alert_at_all_is_rejected(alert: object) -> None:
    (item,) = read(recorded("firing") | {"alerts": [alert]})
    assert isinstance(item, ItemResult)
    assert item.errors


def test_what_is_missing_or_odd_leaves_a_gap_and_no_error() -> None:
    bare = {
        "status": "resolved",
        "labels": {"env": "!!!"},
        "fingerprint": "f",
        "startsAt": "0001-01-01T00:00:00Z",
    }
    noisy = {
        "annotations": {"description": "d" * 30_000},
        "generatorURL": "javascript:alert(1)",
        "novelty": 1,
    }
    firing, resolved = facts(recorded("firing") | {"alerts": [bare | noisy], "novelty": {}})
    for fact in (firing, resolved):
        assert fact.new.title == "An alert without a name"
        assert (fact.new.occurred_at, fact.new.environment, fact.new.services, fact.new.links) == (
            None,
            None,
            [],
            [],
        )
        assert len(fact.new.body or "") == 20_000
    (named,) = facts(changed(recorded("firing"), labels={}, annotations={"summary": "s" * 600}))
    assert named.new.title == "s" * 500


def test_the_labels_to_look_at_can_be_chosen() -> None:
    (fact,) = facts(recorded("firing"), ("slo", "severity"))
    assert (fact.new.services, fact.new.environment) == (["availability"], "page")


def test_a_person_may_send_one_too_under_manual() -> None:
    (item,) = read(recorded("firing"), principal=ANONYMOUS)
    assert isinstance(item, Fact)
    assert item.source == "manual/alertmanager"


def test_a_thousand_signals_are_taken_and_what_is_beyond_is_rejected_alert_by_alert() -> None:
    alert = recorded("resolved")["alerts"][0]
    many = [{**alert, "fingerprint": f"f{number}"} for number in range(501)]
    firing = {**alert, "fingerprint": "late", "status": "firing"}
    items = read(recorded("resolved") | {"alerts": [*many, firing]})
    assert sum(isinstance(it, Fact) for it in items) == 1000
    assert [it.index for it in items if isinstance(it, ItemResult)] == [500, 501]


def test_secrets_in_labels_and_annotations_are_gone_before_anything_is_made_of_them() -> None:
    labels = {"alertname": "X", "password": "hunter2", "url": "https://a:hunter2@example.org/"}
    (fact,) = facts(
        changed(recorded("firing"), labels=labels, annotations={"description": "token=hunter2"})
    )
    assert "hunter2" not in repr(fact)


@pytest.mark.parametrize("change", [{"version": "3"}, {"alerts": None}, {"alerts": {}}])
def test_a_body_of_another_shape_is_no_notification(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Webhook.model_validate(recorded("firing") | change)


@pytest.mark.parametrize("odd", [None, "many", -1, 1.5, [], {}])
def test_what_is_odd_about_the_notification_loses_no_alert(odd: object) -> None:
    body = recorded("firing") | {
        "truncatedAlerts": odd,
        "groupKey": odd,
        "externalURL": odd,
        "receiver": odd,
    }
    assert len(facts(body)) == 1
    assert Webhook.model_validate(body).lost == 0


@given(st.text(st.characters(codec="utf-8"), max_size=100))
def test_any_label_value_gives_a_slug_or_nothing(text: str) -> None:
    labels = {"service": text, "env": text, "alertname": "X"}
    (fact,) = facts(changed(recorded("firing"), labels=labels))
    assert len(fact.new.services) <= 1
    assert fact.new.environment in {None, *fact.new.services}
