"""Reads the rules that are deployed, and runs the programs that judge them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ops.dashboards.reading import seen

__all__ = [
    "DEPLOY",
    "ROOT",
    "Alert",
    "alerts",
    "groups",
    "metrics_of",
    "needs_alertmanager",
    "needs_promtool",
    "program",
    "ran",
    "recorded",
    "rule_files",
]  # fmt: skip

ROOT = Path(__file__).parent.parent.parent.parent
DEPLOY = ROOT / "deploy"
_NOTHING_MISSING = "TEST_REQUIRE_ALL" in os.environ


def program(*names: str) -> str | None:
    """Find the first of some programs; None if this system has none."""
    return next((path for name in names if (path := shutil.which(name))), None)


needs_promtool = pytest.mark.skipif(
    program("promtool") is None and not _NOTHING_MISSING,
    reason="promtool is not installed (Debian: apt-get install prometheus)",
)
needs_alertmanager = pytest.mark.skipif(
    (program("prometheus-alertmanager", "alertmanager") is None or program("amtool") is None)
    and not _NOTHING_MISSING,
    reason="alertmanager is not installed (Debian: apt-get install prometheus-alertmanager)",
)


@dataclass(frozen=True, slots=True)
class Alert:
    """One alerting rule.

    Attributes:
        name: The alert's.
        file: Where it stands, without the folder.
        expr: As it stands there.
        labels: What the rule adds.
        annotations: As templates.
    """

    name: str
    file: str
    expr: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    def __str__(self) -> str:
        told = (self.labels.get(name) for name in ("severity", "slo", "burnrate_tier"))
        return "-".join((self.name, *(text for text in told if text)))


def rule_files() -> list[Path]:
    """List all files of rules, the generated ones too."""
    return sorted((DEPLOY / "prometheus/rules").glob("*.yml"))


@cache
def groups(file: Path) -> list[dict[str, Any]]:
    """Read the groups of one file."""
    found: list[dict[str, Any]] = yaml.safe_load(file.read_text())["groups"]
    return found


def _rules() -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in rule_files():
        for group in groups(file):
            yield from ((file, rule) for rule in group["rules"])


def alerts() -> list[Alert]:
    """List every alerting rule; one alert may have several."""
    return [
        Alert(rule["alert"], file.name, rule["expr"], rule["labels"], rule["annotations"])
        for file, rule in _rules()
        if "alert" in rule
    ]


def recorded() -> set[str]:
    """Name what the recording rules make."""
    return {rule["record"] for _, rule in _rules() if "record" in rule}


def metrics_of(expr: str) -> set[str]:
    """Name the metrics that an expression selects."""
    return {one.metric for one in seen(expr)} - {"None"}


def ran(
    *command: str | Path, cwd: Path = ROOT, timeout: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; what it said is in one text."""
    return subprocess.run(  # noqa: S603 - an argument list, no shell
        [str(word) for word in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
