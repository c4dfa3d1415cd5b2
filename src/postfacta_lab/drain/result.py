"""What a stop under load showed, and how it is written on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..verdict import Verdict

__all__ = ["Result", "text"]

_SHORT = {Verdict.PASS: "ok", Verdict.FAIL: "MISSED", Verdict.INVALID: "UNKNOWN", Verdict.NOTHING: "NOTHING"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a scenario showed on a server.

    Attributes:
        scenario: Which.
        server: Its kind's name.
        cells: Column to text, for the table.
        misses: Every goal that was not reached, in words; empty is good.
        facts: The figures behind the cells.
        flaw: Set where it was undecided, or nothing was measured; the misses say why.
    """

    scenario: str
    server: str
    cells: dict[str, str]
    misses: list[str]
    facts: dict[str, object] = field(default_factory=dict[str, object])
    flaw: Verdict | None = None

    @property
    def verdict(self) -> Verdict:
        return self.flaw or (Verdict.FAIL if self.misses else Verdict.PASS)


def text(results: Sequence[Result]) -> str:
    return "\n".join(line for result in results for line in _lines(result))


def _lines(result: Result) -> Iterable[str]:
    cells = "; ".join(f"{name}: {cell}" for name, cell in result.cells.items())
    yield f"{result.scenario:<12}{result.server:<20}{_SHORT[result.verdict]:<8}{cells}"
    for miss in result.misses:
        yield f"{'':<32}- {miss}"
