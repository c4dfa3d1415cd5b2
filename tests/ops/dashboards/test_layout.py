"""Grafana takes the dashboards, and a reader finds the way in them."""

from __future__ import annotations

import itertools
import re
from typing import Any, cast

import yaml

from deploy.grafana.runbooks import ALERTS
from tests.kit.every import every
from tests.ops.dashboards.reading import BOARDS, ROOT, panels

KINDS = {"timeseries", "stat", "table", "state-timeline", "heatmap", "row"}
# All that we use of https://grafana.com's list; a typing error would be drawn as a suffix.
UNITS = {"s", "reqps", "ops", "percentunit", "short", "none", "bytes"}
NAMES = ["overview", "slo", "database", "resilience", "runtime", "business"]


def test_every_dashboard_is_there_once() -> None:
    assert len(list((ROOT / "deploy/grafana/dashboards").glob("*.json"))) == len(BOARDS)
    assert set(BOARDS) == {f"postfacta-{name}" for name in NAMES}


def test_it_is_found_by_its_name_and_by_its_tag() -> None:
    with every() as case:
        for name, board in BOARDS.items():
            with case(name):
                assert len(board["uid"]) <= 40
                assert board["title"].startswith("PostFacta: ")
                assert board["description"]
                assert board["tags"][0] == "postfacta"
                assert board["id"] is None


def test_it_cannot_be_changed_in_the_browser() -> None:
    with every() as case:
        for name, board in BOARDS.items():
            with case(name):
                assert board["editable"] is False


def test_grafana_knows_its_shape() -> None:
    with every() as case:
        for name, board in BOARDS.items():
            with case(name):
                assert board["schemaVersion"] == 39
                assert board["time"]["from"].startswith("now-")
                assert {panel["type"] for panel in board["panels"]} <= KINDS
                numbers = [panel["id"] for panel in board["panels"]]
                assert len(set(numbers)) == len(numbers)
                for panel in panels(board):
                    assert {"fieldConfig", "options", "targets", "gridPos", "datasource"} <= set(
                        panel
                    )
                    references = [target["refId"] for target in panel["targets"]]
                    assert references
                    assert len(set(references)) == len(references)
                    for target in panel["targets"]:
                        assert target["instant"] is not target["range"]
                    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
                    values = [step["value"] for step in steps]
                    assert values[0] is None
                    assert values[1:] == sorted(values[1:])


def test_no_panel_lies_on_another_or_outside_of_the_24_columns() -> None:
    with every() as case:
        for name, board in BOARDS.items():
            with case(name):
                taken: dict[tuple[int, int], str] = {}
                for panel in board["panels"]:
                    place = panel["gridPos"]
                    assert place["x"] >= 0
                    assert place["x"] + place["w"] <= 24
                    assert place["w"] >= 4
                    assert place["h"] >= 1
                    columns, rows = (
                        range(place["x"], place["x"] + place["w"]),
                        range(place["y"], place["y"] + place["h"]),
                    )
                    for cell in itertools.product(columns, rows):
                        assert taken.setdefault(cell, panel["title"]) == panel["title"]
                # No line is left with a hole: each row of the grid is as wide as the page, but for
                # what stands below a lower one.
                for y in {row for _, row in taken}:
                    assert min(column for column, row in taken if row == y) == 0


def test_every_panel_says_what_it_shows_and_in_what_unit() -> None:
    with every() as case:
        for name, board in BOARDS.items():
            with case(name):
                for panel in panels(board):
                    assert panel["title"]
                    assert panel["description"].endswith(".")
                    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
                    if panel["type"] != "table":
                        assert all(
                            target["legendFormat"] != "__auto" for target in panel["targets"]
                        ), panel["title"]


def test_no_two_panels_under_a_heading_have_one_title() -> None:
    with every() as case:
        for name, board in BOARDS.items():
            with case(name):
                heading, known = "", set[tuple[str, str]]()
                for panel in board["panels"]:
                    heading = panel["title"] if panel["type"] == "row" else heading
                    assert (heading, panel["title"]) not in known
                    known.add((heading, panel["title"]))


def test_the_reader_chooses_the_prometheus() -> None:
    with every() as case:
        for name, board in BOARDS.items():
            with case(name):
                chosen = {"type": "prometheus", "uid": "${datasource}"}
                assert board["templating"]["list"][0]["type"] == "datasource"
                assert board["templating"]["list"][0]["name"] == "datasource"
                for panel in panels(board):
                    assert panel["datasource"] == chosen
                    assert all(target["datasource"] == chosen for target in panel["targets"])
                assert all(event["datasource"] == chosen for event in board["annotations"]["list"])


def test_every_variable_of_a_query_is_one_that_the_reader_or_grafana_sets() -> None:
    with every() as case:
        for name, board in BOARDS.items():
            with case(name):
                known = {variable["name"] for variable in board["templating"]["list"]} | {
                    "__rate_interval",
                    "__range",
                }
                used = {
                    name
                    for panel in panels(board)
                    for t in panel["targets"]
                    for name in re.findall(r"\$\{?(\w+)", t["expr"])
                }
                assert used <= known
                # One that no query asks for would be a switch without a wire.
                assert known - used <= {"datasource", "__rate_interval", "__range", "service"}


def test_a_reader_gets_to_the_other_dashboards() -> None:
    with every() as case:
        for name, board in BOARDS.items():
            with case(name):
                link = board["links"][0]
                assert (link["type"], link["tags"]) == ("dashboards", ["postfacta"])
                assert link["includeVars"] is link["keepTime"] is True


def test_every_link_to_a_runbook_leads_to_a_file() -> None:
    with every() as case:
        for name, board in BOARDS.items():
            with case(name):
                for link in (
                    *board["links"][1:],
                    *(link for panel in panels(board) for link in panel["links"]),
                ):
                    path = link["url"].partition("/src/main/")[2]
                    assert (ROOT / path).exists(), link


def test_what_leads_to_a_runbook_is_a_panel() -> None:
    titles = {panel["title"] for board in BOARDS.values() for panel in panels(board)}
    assert set(ALERTS) <= titles


def test_an_alert_leads_to_a_dashboard_that_exists() -> None:
    rules = [
        yaml.safe_load(file.read_text())
        for file in sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
    ]
    urls = {
        rule["annotations"]["dashboard_url"]
        for file in rules
        for group in file["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    assert urls
    for url in urls:
        assert re.sub(r"[?#].*", "", url).rpartition("/d/")[2] in BOARDS, url


PROVISIONING = sorted((ROOT / "deploy/grafana/provisioning").rglob("*.yaml"))


def test_what_grafana_is_given_cannot_be_changed_in_the_browser() -> None:
    with every() as case:
        for file in PROVISIONING:
            with case(file.name):
                given = cast("dict[str, Any]", yaml.safe_load(file.read_text()))
                assert given["apiVersion"] == 1
                for provider in given.get("providers", ()):
                    assert provider["allowUiUpdates"] is False
                    assert provider["disableDeletion"] is True
                    assert provider["options"]["path"].startswith("/")
                for source in given.get("datasources", ()):
                    assert source["editable"] is False
                    assert source["url"].startswith("$")


def test_a_dot_on_a_graph_leads_to_a_store_of_traces_that_exists() -> None:
    (file,) = (file for file in PROVISIONING if "datasources" in file.parts)
    sources = {source["uid"]: source for source in yaml.safe_load(file.read_text())["datasources"]}
    for place in sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]:
        assert place["datasourceUid"] in sources
        # That is what the library calls it: see telemetry.
        assert place["name"] == "trace_id"
