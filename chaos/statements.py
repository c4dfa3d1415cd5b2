"""Writes of single statements by a program of their own (`chaos/orders.py`), and what its journal says of them."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from postfacta_lab.durability import Fact, Findings, Outcome, Stored, Write, judge
from postfacta_lab.engine.processes import Child

__all__ = ["StatementFindings", "Statements", "judge_journal"]


@dataclass(slots=True, kw_only=True)
class StatementFindings:
    """What became of the statements.

    Attributes:
        findings: As of other writes.
        told: How often each way of writing had which outcome.
        lost_answers: How often the answer to a write was kept from its writer.
    """

    findings: Findings
    told: Counter[str] = field(default_factory=Counter[str])
    lost_answers: int = 0


class Statements:
    """The program that writes.

    Args:
        dsn: The database.
        folder: Where its journal and its log are written.
        seed: Of its choices.
    """

    def __init__(self, dsn: str, folder: Path, *, seed: int) -> None:
        self._journal = folder / "orders.jsonl"
        command = [sys.executable, "-m", "chaos.orders", str(self._journal), "--seed", str(seed)]
        self._child = Child(
            "orders", command, log=folder / "orders.log", environment={**os.environ, "DSN": dsn}
        )

    def start(self) -> None:
        """Begin to write."""
        self._child.start()

    def kill(self) -> None:
        """End it, whatever became of it."""
        self._child.kill()

    def end(self, *, minimum: int) -> StatementFindings:
        """Make it read back what is stored, and judge.

        Raises:
            RuntimeError: If it broke, or did not come to an end.
        """
        code = self._child.terminate(90.0)
        if code != 0:
            raise RuntimeError(
                f"the program that writes statements ended with {code}: {self._child.log}"
            )
        return judge_journal(self._journal.read_text("utf-8").splitlines(), minimum=minimum)


def judge_journal(lines: Iterable[str], *, minimum: int) -> StatementFindings:
    """Compare the answers to the writers with what is stored.

    Args:
        lines: The journal: a JSON object a line.
        minimum: How many writes must have been acknowledged before silence means that all is well.

    Raises:
        RuntimeError: If the journal has no end.
    """
    *written, last = map(json.loads, lines)
    if "stored" not in last:
        raise RuntimeError("the journal does not say what is stored")
    writes = [
        Write(
            subject=line["key"],
            fact=_FACT,
            outcome=Outcome(line["outcome"]),
            version=1 if line["outcome"] == "ok" else 0,
            unknown=(line["error"],) if line["outcome"] == "info" else (),
            fault=line["way"],
        )
        for line in written
    ]
    stored = [
        Stored(subject=key, version=count, facts=(_FACT,) * count)
        for key, count in last["stored"].items()
    ]
    return StatementFindings(
        findings=judge(writes, stored, minimum=minimum),
        told=Counter(f"{line['way']}: {line['outcome']}" for line in written),
        lost_answers=last["lost_answers"],
    )


_FACT = Fact("create", "")
