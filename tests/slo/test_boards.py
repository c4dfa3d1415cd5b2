"""Panels find their places on a dashboard, and its reader finds the way."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given, strategies as st

from postfacta_slo.grafana.boards import Board, Panel, Query, Row, Variable, render


def panel(width: int = 8, height: int = 8) -> Panel:
    return Panel(
        title="Up",
        description="Whether it is.",
        unit="none",
        queries=[Query("up")],
        width=width,
        height=height,
    )


def board(**of: Any) -> Board:
    given: dict[str, Any] = {
        "uid": "shop-overview",
        "title": "Shop",
        "description": "How it is doing.",
        "tags": ["shop", "generated"],
        "rows": [Row("All", [panel()])],
    }
    return Board(**(given | of))


def test_it_is_json_and_cannot_be_edited() -> None:
    made = render(board())
    assert made["editable"] is False
    assert (made["uid"], made["title"], made["tags"]) == (
        "shop-overview",
        "Shop",
        ["shop", "generated"],
    )
    assert json.loads(json.dumps(made)) == made
    assert render(board()) == made


def test_panels_stand_side_by_side_below_their_heading_until_the_line_is_full() -> None:
    rows = [Row("First", [panel(12, 4), panel(12, 6), panel(24, 5)]), Row("Second", [panel(6, 3)])]
    places = [(p["title"], *p["gridPos"].values()) for p in render(board(rows=rows))["panels"]]
    assert places == [
        ("First", 1, 24, 0, 0),
        ("Up", 4, 12, 0, 1),
        ("Up", 6, 12, 12, 1),
        ("Up", 5, 24, 0, 7),
        ("Second", 1, 24, 0, 12),
        ("Up", 3, 6, 0, 13),
    ]


@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 24), st.integers(1, 9)), min_size=1),
        min_size=1,
        max_size=4,
    )
)
def test_no_panel_lies_on_another(sizes: list[list[tuple[int, int]]]) -> None:
    rows = [Row(str(number), [panel(*size) for size in row]) for number, row in enumerate(sizes)]
    made = render(board(rows=rows))["panels"]
    taken = set[tuple[int, int]]()
    for one in made:
        place = one["gridPos"]
        assert 0 <= place["x"] <= 24 - place["w"]
        cells = set(
            itertools.product(
                range(place["x"], place["x"] + place["w"]),
                range(place["y"], place["y"] + place["h"]),
            )
        )
        assert not cells & taken
        taken |= cells
    assert [one["id"] for one in made] == list(range(1, len(made) + 1))


def variables(*given: Variable) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = render(board(variables=given))["templating"]["list"]
    return listed


def test_what_can_be_chosen_is_asked_of_prometheus() -> None:
    one = Variable(name="job", label="Job", query="label_values(up, job)", default="shop")
    _, made = variables(one)
    assert (made["type"], made["query"]["query"]) == ("query", "label_values(up, job)")
    assert made["current"] == {"text": "shop", "value": "shop"}
    assert made["multi"] is made["includeAll"] is False
    # What is in the file of a dashboard would be shown until the next look.
    assert made["options"] == []


def test_of_several_all_are_chosen_at_first() -> None:
    one = Variable(
        name="instance", label="Instance", query="label_values(up, instance)", several=True
    )
    _, made = variables(one)
    assert made["current"] == {"text": ["All"], "value": ["$__all"]}
    assert made["multi"] is made["includeAll"] is True
    assert made["allValue"] == ".*"


def test_without_a_default_grafana_takes_the_first() -> None:
    assert (
        variables(Variable(name="job", label="Job", query="label_values(up, job)"))[1]["current"]
        == {}
    )


def test_a_fixed_list_is_written_down() -> None:
    _, made = variables(
        Variable(name="traffic", label="Traffic", choices=("user", "load"), default="user")
    )
    assert (made["type"], made["query"]) == ("custom", "user,load")
    assert [(option["value"], option["selected"]) for option in made["options"]] == [
        ("user", True),
        ("load", False),
    ]


def test_it_leads_to_its_siblings_and_to_what_it_was_given() -> None:
    siblings, runbooks = render(board(links=[("Runbooks", "https://runbooks.example.org")]))[
        "links"
    ]
    assert (siblings["type"], siblings["tags"], siblings["includeVars"]) == (
        "dashboards",
        ["shop"],
        True,
    )
    assert (runbooks["type"], runbooks["url"]) == ("link", "https://runbooks.example.org")


def test_events_are_marked_on_the_time_axes() -> None:
    (event,) = render(board(events=[("Alert", "ALERTS")]))["annotations"]["list"]
    assert (event["name"], event["expr"], event["enable"]) == ("Alert", "ALERTS", True)
    assert event["datasource"]["uid"] == "${datasource}"
