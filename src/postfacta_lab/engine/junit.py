"""Results as JUnit writes them, for CI services."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

__all__ = ["Case", "suite"]


@dataclass(frozen=True, slots=True)
class Case:
    """One of them; `kind` is `failure`, `error` or `skipped`, and empty for one that passed."""

    group: str
    name: str
    seconds: float
    kind: str = ""
    text: str = ""

    def __str__(self) -> str:
        inner = f"<system-out>{escape(self.text)}</system-out>" if self.text else ""
        if self.kind:
            inner = f"<{self.kind} message={quoteattr(self.text)}/>"
        place = f"classname={quoteattr(self.group)} name={quoteattr(self.name)}"
        return f'  <testcase {place} time="{self.seconds:.3f}">{inner}</testcase>'


def suite(name: str, cases: Sequence[Case]) -> str:
    """Return a suite of cases."""
    counts = {kind: sum(case.kind == kind for case in cases) for kind in ("failure", "error", "skipped")}
    numbers = f'failures="{counts["failure"]}" errors="{counts["error"]}" skipped="{counts["skipped"]}"'
    head = f'<testsuite name={quoteattr(name)} tests="{len(cases)}" {numbers}>'
    return "\n".join(('<?xml version="1.0" encoding="UTF-8"?>', head, *map(str, cases), "</testsuite>", ""))
