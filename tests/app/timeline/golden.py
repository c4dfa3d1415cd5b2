"""Fixed facts and the digests that they have: what these rules made once they make for ever.

`python -m tests.app.timeline.golden` writes the file anew, after the rules have changed and `RULES` counts one more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from pydantic import TypeAdapter

from postfacta_app.timeline.model import Annotation, Edit, Facts, Op, Precision, Signal, StatusChange
from postfacta_app.timeline.rules import RULES, build

__all__ = ["FILE", "Golden", "goldens", "made"]

_FACTS: Final = TypeAdapter(Facts)
FILE: Final = Path(__file__).with_name("golden.json")
_NOON: Final = 1_770_465_600_000_000
_SECOND: Final = 1_000_000
_KINDS: Final = (
    "change",
    "alert_firing",
    "page",
    "metric",
    "log",
    "action",
    "note",
    "alert_resolved",
    "other",
)
_TITLES: Final = (
    "Deploy 4711",
    "p95 \u00fcber 2 s",
    "\u2028\U0001f525 </script>",
    'a "quoted" title',
    "x" * 200,
)
_SEQUENCES: Final = (None, "1", "10", "2", "")


_OPTIONS: Final[list[dict[str, Any]]] = [
    {},
    {"as_of": 41},
    {"known_as_of": _NOON},
    {"include_hidden": True},
]


@dataclass(frozen=True)
class Golden:
    """A set of facts, how to look at them, and what comes out."""

    facts: Facts
    options: Mapping[str, Any]
    digest: str
    order: list[str]


class _Dice:
    """Numbers that are the same in each version of Python."""

    def __init__(self, seed: int) -> None:
        self._seed, self._count = seed, 0

    def __call__(self, below: int) -> int:
        self._count += 1
        return int.from_bytes(hashlib.sha256(f"{self._seed}:{self._count}".encode()).digest()[:8]) % below

    def uuid(self) -> UUID:
        return UUID(int=self(2**63) << 64 | self(2**63))


def _facts(seed: int) -> Facts:
    dice = _Dice(seed)

    def time() -> int:
        return _NOON + (dice(7) - 3) * 30 * _SECOND + dice(2) * 1_234

    apart = range(6)  # The others are at one time, where the finer rules decide.
    signals = [
        Signal(
            signal_id=dice.uuid(),
            source=("ci", "ci/api", "prometheus")[dice(3 if n in apart else 2)],
            external_id=f"s{dice(100)}-{n}",
            kind=_KINDS[dice(len(_KINDS))] if n in apart else ("alert_firing", "alert_resolved")[n % 2],
            occurred_at=time() if n in apart else _NOON,
            precision=list(Precision)[dice(5)] if n in apart else Precision.EXACT,
            title=_TITLES[dice(5)],
            content_sha256=hashlib.sha256(bytes([n])).hexdigest(),
            sequence=_SEQUENCES[dice(5)],
            known_at=(None, time())[dice(2)],
            received_at=time(),
            time_basis="event",
        )
        for n in range(14)
    ]
    changes = [
        StatusChange(
            id=dice.uuid(),
            at=10 + n,
            from_status=("OPEN" if n else None),
            to_status=("OPEN", "IN_PROGRESS")[n],
            occurred_at=time(),
        )
        for n in range(2)
    ]
    notes = [
        Annotation(id=root, root=root, at=20 + n, kind="note", body=f"{_TITLES[n]}\nmore", occurred_at=time())
        for n, root in enumerate([dice.uuid(), dice.uuid()])
    ]
    edits = [Edit(id=dice.uuid(), at=1, op=Op.ATTACH, signal_id=it.signal_id) for it in signals]
    edits.append(Edit(id=dice.uuid(), at=30, op=Op.DETACH, signal_id=signals[dice(14)].signal_id))
    at: dict[str, Any] = {"at": "2026-02-07T12:00:30.5Z", "precision": list(Precision)[dice(5)].value}
    values: dict[Op, dict[str, Any] | None] = {
        Op.SET_TIME: at, Op.SET_TITLE: {"title": "Renamed"}, Op.HIDE: None, Op.PIN: None, Op.UNHIDE: None,
    }  # fmt: skip
    for n, (op, value) in enumerate(values.items()):
        about = signals[dice(14)]
        edits.append(
            Edit(
                id=dice.uuid(),
                at=40 + n,
                op=op,
                source=about.source,
                external_id=about.external_id,
                value=value,
            )
        )
    clock: dict[str, Any] = {"ms": (dice(9) - 4) * 15_000}
    edits.append(Edit(id=dice.uuid(), at=50, op=Op.CLOCK_OFFSET, source="ci", value=clock))
    edits.append(Edit(id=dice.uuid(), at=51, op=Op.MILESTONE, value={"name": "detected", **at}))
    return Facts(signals, changes, notes, edits)


def made() -> Iterator[Golden]:
    """Make twenty sets of facts, and what the rules of now make of them."""
    for seed in range(20):
        facts = _facts(seed)
        options = _OPTIONS[seed % 4]
        timeline = build(facts, **options)
        yield Golden(facts, options, timeline.digest, [f"{it.source} {it.id}" for it in timeline.entries])


def goldens() -> tuple[int, list[Golden]]:
    """Read the version of the rules, and the facts with what those rules made of them."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    return stored["rules"], [_read(it) for it in stored["sets"]]


def _read(it: Mapping[str, Any]) -> Golden:
    facts = _FACTS.validate_python(
        {name: it[name] for name in ("signals", "changes", "annotations", "edits")}
    )
    return Golden(facts, it["options"], it["digest"], it["order"])


def _written(it: Golden) -> dict[str, Any]:
    return {**asdict(it.facts), "options": it.options, "digest": it.digest, "order": it.order}


if __name__ == "__main__":
    sets = ",\n".join(json.dumps(_written(it), default=str, ensure_ascii=True) for it in made())
    FILE.write_text(f'{{"rules": {RULES}, "sets": [\n{sets}\n]}}\n', encoding="utf-8")
