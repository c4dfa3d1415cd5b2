"""Which alerts page, at which severity, with which text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from postfacta_slo.promise.model import Model, RatioIndicator
from postfacta_slo.promise.promql import selector
from postfacta_slo.rules.alerts import burn_alerts, period_alerts, service_alerts
from postfacta_slo.rules.recording import Rule

from .files import APP, model, objective

RATE = objective("success-rate", APP)
MINUTES = objective("availability", APP)
CHECKOUTS = objective("checkouts-succeed")


def every(found: Model) -> list[Rule]:
    return [
        *(alert for service in found.services for alert in service_alerts(found, service)),
        *(alert for one in found.objectives for alert in burn_alerts(one) + period_alerts(one)),
    ]


def test_a_budget_burns_if_both_windows_do_and_enough_failed() -> None:
    of = '{service="postfacta",slo="success-rate"}'
    assert burn_alerts(RATE)[0]["expr"] == (
        f"slo:sli_error:ratio_rate5m{of} > 0.06\nand\n"
        f"slo:sli_error:ratio_rate1m{of} > 0.06\nand\n"
        f"slo:sli_error:increase5m{of} >= 10"
    )


def test_slices_need_no_floor_of_failures() -> None:
    assert "increase" not in "".join(alert["expr"] for alert in burn_alerts(MINUTES))


def test_each_tier_has_its_severity_and_its_patience() -> None:
    told = [
        (a["labels"]["burnrate_tier"], a["labels"]["severity"], a["for"])
        for a in burn_alerts(MINUTES)
    ]
    assert told == [
        ("fast", "page", "2m"),
        ("medium", "page", "15m"),
        ("slow", "ticket", "1h"),
        ("long", "ticket", "3h"),
    ]


def test_compression_shortens_the_patience_alone() -> None:
    nominal, short = burn_alerts(MINUTES), burn_alerts(MINUTES, 60)
    assert [alert["for"] for alert in short] == ["2s", "15s", "1m", "3m"]
    assert [{**alert, "for": ""} for alert in short] == [{**alert, "for": ""} for alert in nominal]
    assert [alert["for"] for alert in service_alerts(model(APP), MINUTES.service, 60)] == [
        "1s",
        "3s",
    ]
    assert [alert["for"] for alert in period_alerts(MINUTES, 60)] == ["5s"]


@pytest.mark.parametrize("found", [model(APP), model()], ids=["app", "orders"])
def test_each_alert_says_who_what_and_where_to_look(found: Model) -> None:
    for alert in every(found):
        assert {"severity", "service", "component"} <= alert["labels"].keys()
        notes = alert["annotations"]
        assert notes.keys() == {"summary", "description", "runbook_url", "dashboard_url"}
        assert all(notes.values())
        assert alert["alert"] in notes["runbook_url"]


@pytest.mark.parametrize("found", [model(APP), model()], ids=["app", "orders"])
def test_no_two_alerts_have_one_name_and_the_same_labels(found: Model) -> None:
    told = [(alert["alert"], tuple(sorted(alert["labels"].items()))) for alert in every(found)]
    assert len(set(told)) == len(told)


def test_the_text_says_windows_and_what_is_left_to_lose() -> None:
    notes = burn_alerts(MINUTES)[0]["annotations"]
    assert notes["summary"] == "PostFacta, Availability: the error budget burns 14.4 times too fast"
    for word in (
        "14.4 % of all slices",
        "last 1h",
        "last 5m",
        "$value | humanizePercentage",
        "2 % of",
        "2.08 d",
    ):
        assert word in notes["description"]


def test_the_labels_of_the_file_are_on_the_alert() -> None:
    assert burn_alerts(CHECKOUTS)[0]["labels"] == {
        "severity": "page",
        "burnrate_tier": "fast",
        "service": "orders-api",
        "slo": "checkouts-succeed",
        "component": "checkout",
        "team": "checkout",
    }
    down = service_alerts(model(), CHECKOUTS.service)[0]
    assert down["labels"] == {
        "severity": "page",
        "service": "orders-api",
        "component": "slo",
        "team": "checkout",
    }


def test_the_dashboard_opens_at_the_objective() -> None:
    url = burn_alerts(CHECKOUTS)[0]["annotations"]["dashboard_url"]
    assert url == "https://grafana.example.com/d/orders-api-slo?var-slo=checkouts-succeed"


def test_what_people_wrote_is_no_template() -> None:
    braces = replace(CHECKOUTS, title="{{ $value }}", labels=(("note", "{{ 1 }}"),))
    alert = burn_alerts(braces)[0]
    assert alert["annotations"]["summary"].startswith('Orders, {{ "{{" }} $value }}: ')
    assert alert["labels"]["note"] == '{{ "{{" }} 1 }}'


def test_a_service_that_is_down_pages_after_a_minute() -> None:
    down = service_alerts(model(APP), RATE.service)[0]
    assert (down["alert"], down["expr"], down["for"]) == (
        "PostfactaDown",
        'absent(up{job="postfacta"} == 1)',
        "1m",
    )
    assert down["labels"]["severity"] == "page"


def test_silence_is_an_alert_whatever_the_labels_were() -> None:
    absent = service_alerts(model(APP), RATE.service)[1]
    assert absent["alert"] == "PostfactaSLIMetricAbsent"
    assert absent["expr"] == 'absent(http_server_requests_total{job="postfacta"})'
    assert (absent["for"], absent["labels"]["severity"]) == ("3m", "page")


def test_one_metric_falls_silent_once_for_each_severity() -> None:
    found = model(APP)
    twice = replace(RATE, name="again")
    assert len(service_alerts(replace(found, objectives=(RATE, twice)), RATE.service)) == 2
    tickets = replace(twice, tiers=(replace(RATE.tiers[0], severity="ticket"),))
    severities = [
        a["labels"]["severity"]
        for a in service_alerts(replace(found, objectives=(RATE, tickets)), RATE.service)
    ]
    assert severities == ["page", "page", "ticket"]


def test_without_the_option_there_is_no_absence_alert() -> None:
    only = replace(model(APP), objectives=(MINUTES,))
    assert [alert["alert"] for alert in service_alerts(only, MINUTES.service)] == ["PostfactaDown"]


def test_a_metric_without_a_job_is_watched_wherever_it_comes_from() -> None:
    assert isinstance(CHECKOUTS.indicator, RatioIndicator)
    anywhere = replace(CHECKOUTS.indicator, total=selector('all{a="b"}'))
    one = replace(CHECKOUTS, indicator=anywhere)
    absent = service_alerts(replace(model(), objectives=(one,)), one.service)[1]
    assert absent["expr"] == "absent(all)"


def test_a_spent_budget_of_a_month_is_a_ticket_and_that_of_an_hour_is_not() -> None:
    (alert,) = period_alerts(MINUTES)
    assert alert["alert"] == "PostfactaErrorBudgetExhausted"
    assert alert["expr"].endswith('{service="postfacta",slo="availability"} <= 0')
    assert (alert["for"], alert["labels"]["severity"]) == ("5m", "ticket")
    assert "last 30 d" in alert["annotations"]["description"]
    assert period_alerts(RATE) == []
