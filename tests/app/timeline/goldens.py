"""Fixed facts, and the order and the digest that they have under a version of the rules.

Each file of `golden/` is about one clause of the rules. `golden/seals.json` has a hash of all
digests for each version: `python -m tests.app.timeline.goldens` writes what the rules of now make
of the facts, and adds a seal. It refuses to change one: other digests need `RULES += 1`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from postfacta_app.timeline.model import Facts
from postfacta_app.timeline.rules import RULES, Timeline, build

__all__ = ["FOLDER", "Golden", "goldens", "outcome", "rewrite", "sealed", "seals"]

FOLDER: Final = Path(__file__).with_name("golden")
_FACTS: Final = TypeAdapter(Facts)
_KINDS: Final = ("signals", "changes", "annotations", "edits")


@dataclass(frozen=True)
class Golden:
    """A set of facts, how to look at them, and what comes out."""

    name: str
    facts: Facts
    options: Mapping[str, Any]
    expected: Mapping[str, Any]

    def build(self) -> Timeline:
        """Make the timeline by the rules of now."""
        return build(self.facts, **self.options)


def goldens(folder: Path = FOLDER) -> list[Golden]:
    """Read all sets."""
    return [_read(path) for path in _paths(folder)]


def seals(folder: Path = FOLDER) -> dict[int, str]:
    """Read the seal of each version of the rules."""
    return {
        int(rules): seal for rules, seal in json.loads((folder / "seals.json").read_text()).items()
    }


def outcome(timeline: Timeline) -> dict[str, Any]:
    """Return what is written down of a timeline."""
    return {
        "order": [f"{it.source} {it.id}" for it in timeline.entries],
        "ties": [it.id for it in timeline.entries if it.tie],
        "suspect": [it.id for it in timeline.entries if it.clock_suspect],
        "conflicts": sum(it.conflicts for it in timeline.entries),
        "digest": timeline.digest,
    }


def sealed(sets: list[Golden]) -> str:
    """Return the hash of all digests that are written down."""
    return hashlib.sha256("".join(str(it.expected["digest"]) for it in sets).encode()).hexdigest()


def rewrite(folder: Path = FOLDER, rules: int = RULES) -> None:
    """Write down what the rules of now make of the facts.

    Raises:
        ValueError: If the digests of this version were others.
    """
    for path, golden in zip(_paths(folder), goldens(folder), strict=True):
        stored = json.loads(path.read_text())
        path.write_text(_text(stored | {"expected": outcome(golden.build())}))
    old, new = seals(folder), sealed(goldens(folder))
    if old.setdefault(rules, new) != new:
        raise ValueError(
            f"these rules had other digests: restore the files, and set RULES to {rules + 1}"
        )
    (folder / "seals.json").write_text(json.dumps(old, indent=1) + "\n")


def _paths(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.json")) if path.name != "seals.json"]


def _read(path: Path) -> Golden:
    stored = json.loads(path.read_text())
    facts = _FACTS.validate_python({kind: stored.get(kind, []) for kind in _KINDS})
    return Golden(path.stem, facts, stored.get("options", {}), stored["expected"])


def _text(stored: Mapping[str, Any]) -> str:
    """Write one fact a line."""
    parts: list[str] = []
    for name, value in stored.items():
        if name in _KINDS:
            lines = ",\n  ".join(json.dumps(fact) for fact in value)
            parts.append(f" {json.dumps(name)}: [\n  {lines}\n ]")
        else:
            parts.append(f" {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    rewrite()
