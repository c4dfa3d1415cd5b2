"""What a stop under load showed, judged, and as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..engine.client import Outcome
from ..verdict import FEWEST, Verdict
from .clients import Attempt

_SHORT = {
    Verdict.PASS: "ok",
    Verdict.FAIL: "MISSED",
    Verdict.INVALID: "UNKNOWN",
    Verdict.NOTHING: "NOTHING",
}


@dataclass(frozen=True, slots=True)
class Result:
    """What a scenario showed on a server."""

    scenario: str
    server: str
    cells: dict[str, str]  # column to text, for the table
    misses: list[str]  # every goal that was not reached, in words; empty is good
    facts: dict[str, object] = field(
        default_factory=dict[str, object]
    )  # the figures behind the cells
    flaw: Verdict | None = (
        None  # set where it was undecided, or nothing was measured; the misses say why
    )

    @property
    def verdict(self) -> Verdict:
        return self.flaw or (Verdict.FAIL if self.misses else Verdict.PASS)


def text(results: Sequence[Result]) -> str:
    lines: list[str] = []
    for result in results:
        cells = "; ".join(f"{name}: {cell}" for name, cell in result.cells.items())
        lines.append(f"{result.scenario:<12}{result.server:<20}{_SHORT[result.verdict]:<8}{cells}")
        lines += [f"{'':<32}- {miss}" for miss in result.misses]
    return "\n".join(lines)


def judge(
    scenario: str,
    server: str,
    attempts: Sequence[Attempt],
    *,
    signalled: float,
    misses: Iterable[str],
    cells: Mapping[str, str],
) -> Result:
    """Judge by the requests that failed, and by what else was missed.

    It is undecided if too few clients could notice.
    """
    failed = [attempt for attempt in attempts if attempt.outcome is not Outcome.OK]
    after = [attempt for attempt in attempts if attempt.at >= signalled]
    reasons: list[str] = []
    if len(attempts) < FEWEST:
        reasons.append(f"{len(attempts)} requests ended, at least {FEWEST} are needed")
    if not after:
        reasons.append("no request was sent after the signal, so no client can have noticed it")
    flaw = Verdict.INVALID if reasons else None
    if failed:
        kinds = ", ".join(sorted({f"{attempt.client} {attempt.outcome}" for attempt in failed}))
        late = (
            f"{sum(attempt.at >= signalled for attempt in failed)} of {len(after)} sent after the"
            " signal"
        )
        reasons.append(f"{len(failed)} of {len(attempts)} requests failed ({kinds}), {late}")
    figures = {
        "failed / requests": f"{len(failed)} / {len(attempts)}",
        "after the signal": str(len(after)),
    }
    return Result(scenario, server, {**figures, **cells}, [*reasons, *misses], flaw=flaw)
