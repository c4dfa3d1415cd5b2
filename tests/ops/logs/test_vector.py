"""The parts of the Vector definition fit together.

Its program is run where Vector's own compiler can be installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

DEFINITION: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[3] / "deploy/logs/vector.yaml").read_text(encoding="utf-8")
)
PROGRAM: str = DEFINITION["transforms"]["parsed"]["source"]
# Each value of a label is a stream of its own in Loki: what has many values must be none.
FEW = {"service", "environment", "level"}

needs_vrl = pytest.mark.skipif(
    importlib.util.find_spec("vector_vrl") is None,
    reason="not run: vector-vrl is not installed; it needs Python 3.12",
)


def inputs() -> Iterator[tuple[str, str]]:
    for kind in ("transforms", "sinks"):
        for name, part in DEFINITION[kind].items():
            for given in part["inputs"]:
                yield name, given


@pytest.mark.parametrize(("name", "given"), list(inputs()))
def test_each_part_is_fed_by_one_that_exists(name: str, given: str) -> None:
    known = {*DEFINITION["sources"], *DEFINITION["transforms"]}
    known |= {
        f"{it}.dropped"
        for it, part in DEFINITION["transforms"].items()
        if part.get("reroute_dropped")
    }
    assert given in known


@pytest.mark.parametrize(
    "part", [*DEFINITION["sources"], *DEFINITION["transforms"], "parsed.dropped"]
)
def test_what_a_part_gives_goes_somewhere(part: str) -> None:
    assert part in {given for _, given in inputs()}


@pytest.mark.parametrize(
    "sink", [it for it in DEFINITION["sinks"].values() if it["type"] == "loki"]
)
def test_lines_wait_on_disk_for_loki_and_have_few_labels(sink: dict[str, Any]) -> None:
    assert set(sink["labels"]) <= FEW
    assert sink["buffer"]["type"] == "disk"
    assert sink["buffer"]["when_full"] == "block"
    assert sink["endpoint"] == "${LOKI_URL}"


def test_what_is_no_line_of_ours_is_kept_apart_and_not_lost() -> None:
    parsed = DEFINITION["transforms"]["parsed"]
    assert parsed["drop_on_abort"] is parsed["drop_on_error"] is parsed["reroute_dropped"] is True
    assert "abort" in PROGRAM


def run(message: object) -> dict[str, Any]:
    """Let Vector's own runtime run the program on one line of a container."""
    vrl: Any = importlib.import_module("vector_vrl")
    [event] = vrl.execute_vrl(
        PROGRAM, [json.dumps({"message": message, "container_name": "postfacta-1"})]
    )
    given: dict[str, Any] = event
    return given


@needs_vrl
def test_a_line_of_ours_becomes_its_fields_and_its_time() -> None:
    fields = {
        "event": "http.request",
        "level": "info",
        "status": 200,
        "duration_ms": 1.25,
        "trace_id": "0af7",
    }
    event = run(json.dumps({**fields, "timestamp": "2026-09-21T14:13:20.000250Z"}))
    assert str(event.pop("timestamp")).startswith("2026-09-21 14:13:20.000250")
    assert event == fields


@needs_vrl
@pytest.mark.parametrize(
    "message", ["Fatal Python error", "[1]", '{"no": "event"}', '{"half": ', 7]
)
def test_what_is_no_line_of_ours_is_rerouted(message: object) -> None:
    assert "aborted" in run(message)["error"]


@needs_vrl
def test_a_line_whose_time_cannot_be_read_is_kept_with_the_present_one() -> None:
    event = run(json.dumps({"event": "odd", "timestamp": "never"}))
    assert event["event"] == "odd"
    assert str(event["timestamp"])[:2] == "20"
