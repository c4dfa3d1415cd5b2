"""What services say is read whatever shape it has: JSON, and metrics."""

from __future__ import annotations

from typing import Any

import pytest

from postfacta_lab.engine.values import (
    Series,
    as_dict,
    as_dicts,
    as_list,
    at_pointer,
    growth,
    parse,
)

SCRAPE = """\
# HELP http_requests_total All of them.
http_requests_total{method="GET",path="/a \\"b\\"",code="200"} 5
http_requests_total{code="404",method="GET"} 2 1700000000
up 1
sizes_bucket{le="9",part="}"} 7 # {trace_id="{4f}"} 0.3 1700000000
odd one
process_start NaN-ish
"""


def test_a_value_of_another_shape_is_empty() -> None:
    assert (as_dict([1]), as_list({"a": 1}), as_dicts([{"a": 1}, 2]), as_dicts("x")) == (
        {},
        [],
        [{"a": 1}],
        [],
    )


@pytest.mark.parametrize(
    ("pointer", "value"),
    [("/a/1/b", 3), ("/a/9", None), ("/a/b", None), ("/c", None), ("/a/0", {}), ("/a/1/b/c", None)],
)
def test_a_pointer_finds_what_is_there(pointer: str, value: Any) -> None:
    assert at_pointer({"a": [{}, {"b": 3}]}, pointer) == value


def test_series_differ_by_labels_in_any_order() -> None:
    found = parse(SCRAPE)
    assert sorted(found.values()) == [1, 2, 5, 7]
    refused = Series("http_requests_total", (("code", "404"), ("method", "GET")))
    assert found[refused] == 2
    assert refused.says("get")
    assert not refused.says("200")
    assert found[Series("sizes_bucket", (("le", "9"), ("part", "}")))] == 7  # not its exemplar


def test_growth_is_what_went_up() -> None:
    before, more = parse(SCRAPE), parse(SCRAPE.replace("} 5", "} 8").replace("up 1", "up 0"))
    assert [(series.name, by) for series, by in growth(before, more)] == [
        ("http_requests_total", 3)
    ]
    assert dict(growth({}, {Series("new"): 4.0})) == {Series("new"): 4.0}
