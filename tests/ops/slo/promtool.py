"""Run promtool's unit tests on rules as they are in memory, or on a part of them."""

from __future__ import annotations

# YAML is written without types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.slo.promtool import refusal

__all__ = ["complaints", "cost", "of", "own", "requests"]


def complaints(where: Path, groups: Sequence[Mapping[str, Any]], proof: Mapping[str, Any]) -> str:
    """Test rules, and return what promtool had to say against them; nothing if all holds.

    Args:
        where: A directory of one's own.
        groups: The groups of rules.
        proof: A file of tests. What it says of rule files and of groups that are not there does not
            count.
    """
    names = {group["name"] for group in groups}
    order = [name for name in proof.get("group_eval_order", ()) if name in names]
    _write(where / "rules.yml", {"groups": list(groups)})
    _write(where / "tests.yml", {**proof, "rule_files": ["rules.yml"], "group_eval_order": order})
    said = refusal(where, "test", "rules", "tests.yml")
    assert not said or "FAILED" in said, said
    return said


def _write(file: Path, content: object) -> None:
    # The dumper in C, where it was built, for there is much to write. JSON is not YAML for all
    # characters.
    file.write_text(yaml.dump(content, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))


def cost(test: dict[str, Any]) -> int:
    """About how long a test takes: how many samples its longest series has."""
    lengths: list[int] = [
        sum(int(more) + 1 for more in re.findall(r"x(\d+)", one["values"]))
        + one["values"].count(" ")
        for one in test["input_series"]
    ]
    return max(lengths)


def of(proof: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """Return those tests alone whose name begins with an objective's or a service's name."""
    return {
        **proof,
        "tests": [test for test in proof["tests"] if test["name"].startswith(f"{whose}: ")],
    }


def own(groups: Sequence[dict[str, Any]], whose: str) -> list[dict[str, Any]]:
    """Return those groups alone that are of an objective, or of a service.

    The others would only take time.
    """
    return [group for group in groups if f":{whose}:" in f"{group['name']}:"]


def requests(pairs: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """Return series as promtool wants them, from their names and values."""
    return [{"series": series, "values": values} for series, values in pairs]
