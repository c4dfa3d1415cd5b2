"""A panel is drawn as Grafana reads it, and says what it shows."""

from __future__ import annotations

from typing import Any

import pytest

from postfacta_slo.grafana.boards import Kind, Panel, Query, Step, panel_json


def panel(**of: Any) -> Panel:
    given: dict[str, Any] = {
        "title": "Requests",
        "description": "Requests a second.",
        "unit": "reqps",
        "queries": [Query("up", "{{instance}}")],
    }
    return Panel(**(given | of))


def drawn(**of: Any) -> dict[str, Any]:
    return panel_json(panel(**of), 7, at=(8, 3))


def test_each_query_of_a_panel_has_a_letter_and_from_the_27th_on_two() -> None:
    refs = [target["refId"] for target in drawn(queries=[Query("up")] * 28)["targets"]]
    assert refs[:2] + refs[25:] == ["A", "B", "Z", "AA", "AB"]


def test_a_panel_stands_at_its_place_with_its_number() -> None:
    made = drawn(width=16, height=5)
    assert made["id"] == 7
    assert made["gridPos"] == {"x": 8, "y": 3, "w": 16, "h": 5}
    assert made["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_queries_are_distinguished_by_letters() -> None:
    targets = drawn(queries=[Query("up"), Query("down", "{{x}}", exemplars=True)])["targets"]
    assert [(t["refId"], t["expr"], t["legendFormat"], t["exemplar"]) for t in targets] == [
        ("A", "up", "__auto", False),
        ("B", "down", "{{x}}", True),
    ]


@pytest.mark.parametrize(
    ("kind", "present", "shape"),
    [
        (Kind.LINES, False, "time_series"),
        (Kind.STATES, False, "time_series"),
        (Kind.NUMBERS, True, "time_series"),
        (Kind.TABLE, True, "table"),
        (Kind.HEAT, False, "heatmap"),
    ],
)
def test_a_number_or_a_table_asks_for_the_present_alone(
    kind: Kind, shape: str, *, present: bool
) -> None:
    made = drawn(kind=kind)
    (target,) = made["targets"]
    assert made["type"] == kind.value
    assert (target["instant"], target["range"], target["format"]) == (present, not present, shape)
    assert made["options"]


def test_lines_begin_at_zero_unless_they_may_fall_below() -> None:
    assert drawn()["fieldConfig"]["defaults"]["min"] == 0
    assert "min" not in drawn(bottom=None)["fieldConfig"]["defaults"]
    assert "min" not in drawn(kind=Kind.NUMBERS)["fieldConfig"]["defaults"]


def test_a_scale_ends_at_its_maximum() -> None:
    assert "max" not in drawn()["fieldConfig"]["defaults"]
    assert drawn(top=1)["fieldConfig"]["defaults"]["max"] == 1


def test_lines_show_where_it_becomes_bad_only_if_that_is_known() -> None:
    def style(made: dict[str, Any]) -> str:
        return str(made["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"]["mode"])

    worse = drawn(steps=(Step("green"), Step("red", 0.9)))
    assert (style(drawn()), style(worse)) == ("off", "dashed")
    assert worse["fieldConfig"]["defaults"]["thresholds"]["steps"] == [
        {"color": "green", "value": None},
        {"color": "red", "value": 0.9},
    ]


def test_lines_are_piled_up_only_when_they_are_parts_of_a_whole() -> None:
    piled, single = (
        drawn(stacked=flag)["fieldConfig"]["defaults"]["custom"] for flag in (True, False)
    )
    assert (piled["stacking"]["mode"], single["stacking"]["mode"]) == ("normal", "none")
    assert (piled["fillOpacity"], single["fillOpacity"]) == (25, 0)


def test_numbers_get_their_words() -> None:
    made = drawn(kind=Kind.STATES, names={0: "down", 1: "up"})
    (mapping,) = made["fieldConfig"]["defaults"]["mappings"]
    assert mapping["options"] == {"0": {"text": "down"}, "1": {"text": "up"}}
    assert drawn()["fieldConfig"]["defaults"]["mappings"] == []


def test_only_a_table_is_put_together_from_its_queries() -> None:
    assert [step["id"] for step in drawn(kind=Kind.TABLE)["transformations"]] == [
        "merge",
        "organize",
    ]
    assert drawn()["transformations"] == []


def test_links_open_beside_the_dashboard() -> None:
    (link,) = drawn(links=[("Runbook", "https://runbooks.example.org/a")])["links"]
    assert link == {
        "title": "Runbook",
        "url": "https://runbooks.example.org/a",
        "targetBlank": True,
    }
