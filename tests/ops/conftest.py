"""What takes minutes of the processor runs only if it is asked for: `OPS_ALL=1 pytest tests/ops`."""

from __future__ import annotations

import os

import pytest

LONG = (
    "slo/test_promtool.py",
    "slo/test_rule_mutants.py",
    "slo/test_detection_times.py",
    "dashboards/test_live.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the long ones, and say how to run them."""
    skip = pytest.mark.skip(reason="takes minutes: OPS_ALL=1 runs it")
    for item in items:
        if item.path.as_posix().endswith(LONG) and os.environ.get("OPS_ALL") != "1":
            item.add_marker(skip)
