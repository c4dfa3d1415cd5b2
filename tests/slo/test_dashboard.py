"""The dashboard of the objectives shows what the rules record and what the indicators measure."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import promql_parser
import pytest

from postfacta_slo.grafana.dashboard import dashboard_of
from postfacta_slo.promise.model import (
    DataSource,
    Model,
    Objective,
    RatioIndicator,
    Service,
    Slices,
    ThresholdIndicator,
    Tier,
)
from postfacta_slo.promise.promql import Matcher, Selector, expression

HOUR, DAY = 3_600, 86_400

SHOP = Service(
    name="shop",
    title="Shop",
    description="",
    job="shop",
    runbook_url="https://runbooks.example.org/{alert}.md",
    dashboard_url="/d/shop-slo",
    down_severity="page",
)
ALL = Selector("requests_total", (Matcher("job", "=", "shop"),))
BAD = Selector("requests_total", (Matcher("job", "=", "shop"), Matcher("code", "=~", "5..")))
ERRORS = RatioIndicator(name="errors", description="", good=None, bad=BAD, total=ALL)
FAST = Tier(
    policy="fast", name="fast", severity="page", factor=14.4, long=HOUR, short=300, hold=120
)
SLOW = Tier(
    policy="slow", name="slow", severity="ticket", factor=3, long=DAY, short=2 * HOUR, hold=3_600
)
AVAILABLE = Objective(
    name="availability",
    title="Availability",
    description="",
    service=SHOP,
    indicator=ERRORS,
    target=0.995,
    period=30 * DAY,
    slices=None,
    tiers=(FAST, SLOW),
    exhausted_severity="ticket",
)
BUCKETS = Selector("latency_seconds_bucket", (Matcher("job", "=", "shop"),))
P95 = ThresholdIndicator(
    name="p95",
    description="How long requests take.",
    metric=BUCKETS,
    aggregate="quantile",
    quantile=0.95,
    op="lte",
    value=0.2,
)
QUICK = replace(
    AVAILABLE,
    name="latency",
    title="Latency",
    indicator=P95,
    slices=Slices(window=300, target=1.0),
    target=0.99,
)
HOURLY = replace(
    AVAILABLE,
    name="success",
    title="Success",
    period=HOUR,
    tiers=(replace(FAST, factor=12, long=300, short=60),),
)
SOURCE = DataSource(name="prometheus", scrape_interval=15, evaluation_interval=15)


def board(*objectives: Objective, services: tuple[Service, ...] = (SHOP,)) -> dict[str, Any]:
    return dashboard_of(Model(source=SOURCE, services=services, objectives=objectives))


def alone(name: str) -> dict[str, Any]:
    """Draw the dashboard of a service of this name."""
    service = replace(SHOP, name=name)
    return board(replace(AVAILABLE, service=service), services=(service,))


def of_row(made: dict[str, Any], title: str) -> dict[str, dict[str, Any]]:
    """Give the panels under a heading, by title."""
    found: dict[str, dict[str, Any]] = {}
    heading = ""
    for panel in made["panels"]:
        if panel["type"] == "row":
            heading = panel["title"]
        elif heading == title:
            found[panel["title"]] = panel
    return found


def exprs(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def test_each_objective_has_a_row_of_its_own() -> None:
    made = board(AVAILABLE, QUICK)
    headings = [panel["title"] for panel in made["panels"] if panel["type"] == "row"]
    assert headings == ["All objectives", "Shop: Availability", "Shop: Latency"]
    assert (made["uid"], made["title"]) == ("shop-slo", "Shop: Objectives")
    assert made["tags"] == ["shop", "slo", "generated"]


def test_it_is_one_dashboard_for_all_services_of_a_file() -> None:
    bank = replace(SHOP, name="bank", title="Bank")
    made = board(AVAILABLE, replace(QUICK, service=bank), services=(SHOP, bank))
    assert made["uid"] == "shop-slo"
    assert made["title"] == "Shop and Bank: Objectives"
    assert of_row(made, "Bank: Latency")
    assert 'service=~"shop|bank"' in exprs(of_row(made, "All objectives")["Budget left"])[0]


def test_a_long_name_is_shortened_to_what_grafana_takes_and_stays_its_own() -> None:
    long = ["a" * 60, "a" * 59 + "b"]
    uids = [alone(name)["uid"] for name in long]
    assert all(len(uid) == 40 and uid.endswith("-slo") for uid in uids)
    assert uids[0] != uids[1]
    assert alone("a" * 36)["uid"] == "a" * 36 + "-slo"


def test_a_dot_in_a_service_name_is_none_in_that_of_its_dashboard() -> None:
    dotted, dashed = alone("shop.example.org")["uid"], alone("shop-example-org")["uid"]
    assert re.fullmatch("shop-example-org-[0-9a-f]{8}-slo", dotted)
    assert dashed == "shop-example-org-slo"


def test_figures_come_from_what_the_rules_record() -> None:
    panels = of_row(board(AVAILABLE), "Shop: Availability")
    which = '{service="shop",slo="availability"}'
    assert exprs(panels["Promised"]) == [f"slo:objective:ratio{which}"]
    assert exprs(panels["Kept"]) == [
        f"1 - max(slo:period_burn_rate:ratio{which}) * max(slo:error_budget:ratio{which})"
    ]
    assert exprs(panels["Budget left"]) == [f"slo:period_error_budget_remaining:ratio{which}"]
    assert "0.5 %" in panels["Budget left"]["description"]
    assert "30d" in panels["Promised"]["description"]
    assert panels["Kept"]["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"] == 0.995


def test_the_budget_may_be_overspent_on_the_graph() -> None:
    panel = of_row(board(AVAILABLE), "Shop: Availability")["Budget left over time"]
    assert "min" not in panel["fieldConfig"]["defaults"]


def test_burn_is_drawn_over_each_window_that_an_alert_looks_at() -> None:
    panel = of_row(board(AVAILABLE), "Shop: Availability")["Burn rate by window"]
    assert [target["legendFormat"] for target in panel["targets"]] == ["5m", "1h", "2h", "1d"]
    assert all(target["expr"].startswith("slo:sli_error:ratio_rate") for target in panel["targets"])
    assert {300, HOUR, 2 * HOUR, DAY} <= set(AVAILABLE.windows)
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [step["value"] for step in steps] == [None, 3, 14.4]
    assert "fast: 14.4 over 1h and 5m; slow: 3 over 1d and 2h" in panel["description"]


@pytest.mark.parametrize(
    ("indicator", "title", "expected", "unit"),
    [
        (
            ERRORS,
            "All and bad",
            [f"sum(rate({ALL}[$__rate_interval]))", f"sum(rate({BAD}[$__rate_interval]))"],
            "reqps",
        ),
        (
            replace(ERRORS, good=BAD, bad=None, counter=False),
            "All and good",
            [
                f"sum(avg_over_time({ALL}[$__rate_interval]))",
                f"sum(avg_over_time({BAD}[$__rate_interval]))",
            ],
            "short",
        ),
        (
            P95,
            "What is measured",
            [f"histogram_quantile(0.95, sum by (le) (rate({BUCKETS}[$__rate_interval])))"],
            "s",
        ),
        (
            replace(P95, metric=Selector("free_bytes"), aggregate="min", quantile=None, op="gte"),
            "What is measured",
            ["min(free_bytes)"],
            "none",
        ),
        (
            replace(
                ERRORS, bad=expression("sum(rate(a[{{window}}]))"), total=expression("max(b) / 2")
            ),
            "All and bad",
            ["sum(max(b) / 2)", "sum(sum(rate(a[$__rate_interval])))"],
            "short",
        ),
        (
            replace(
                P95, metric=expression("rate(a[{{window}}]) * 2"), aggregate="max", quantile=None
            ),
            "What is measured",
            ["max(rate(a[$__rate_interval]) * 2)"],
            "none",
        ),
    ],
)
def test_what_is_measured_is_shown_as_it_is(
    indicator: RatioIndicator | ThresholdIndicator, title: str, expected: list[str], unit: str
) -> None:
    panel = of_row(board(replace(AVAILABLE, indicator=indicator)), "Shop: Availability")[title]
    assert exprs(panel) == expected
    assert panel["fieldConfig"]["defaults"]["unit"] == unit


@pytest.mark.parametrize(("op", "colors"), [("lte", ["green", "red"]), ("gte", ["red", "green"])])
def test_the_bad_side_of_a_threshold_is_red(op: str, colors: list[str]) -> None:
    one = replace(QUICK, indicator=replace(P95, op=op))
    panel = of_row(board(one), "Shop: Latency")["What is measured"]
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [step["color"] for step in steps] == colors
    assert steps[1]["value"] == 0.2
    assert panel["description"] == "How long requests take."


def test_slices_are_shown_only_where_there_are_some() -> None:
    made = board(AVAILABLE, QUICK)
    assert "Bad slices" not in of_row(made, "Shop: Availability")
    panel = of_row(made, "Shop: Latency")["Bad slices"]
    assert "Each 5m" in panel["description"]
    which = '{service="shop",slo="latency"}'
    assert exprs(panel) == [f"slo:slice_bad:bool{which}", f"slo:slice_judged:bool{which}"]


def test_hours_met_are_shown_for_what_is_promised_by_the_hour() -> None:
    made = board(AVAILABLE, HOURLY)
    assert not [title for title in of_row(made, "Shop: Availability") if "each" in title]
    panel = of_row(made, "Shop: Success")["Was the objective met in each 1h"]
    assert exprs(panel) == [
        'avg_over_time(slo:period_ok:bool{service="shop",slo="success"}[$__range])'
    ]


def test_it_leads_to_the_runbook_if_that_has_an_address() -> None:
    links = [link["url"] for link in board(AVAILABLE)["links"][1:]]
    assert links == ["https://runbooks.example.org/ShopErrorBudgetBurn.md"]
    inside = replace(SHOP, runbook_url="docs/runbooks/{alert}.md")
    assert board(replace(AVAILABLE, service=inside), services=(inside,))["links"][1:] == []


def test_every_query_is_promql_and_every_panel_says_what_it_shows() -> None:
    made = board(
        AVAILABLE,
        QUICK,
        HOURLY,
        replace(AVAILABLE, name="x", indicator=replace(ERRORS, counter=False)),
    )
    for panel in made["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"].replace("$__rate_interval", "1m").replace("$__range", "1h")
            assert promql_parser.parse(expr).prettify()
            assert panel["title"]
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]
    assert made["editable"] is False


def test_the_same_model_gives_the_same_dashboard() -> None:
    assert board(AVAILABLE, QUICK) == board(AVAILABLE, QUICK)
