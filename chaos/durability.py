"""Hit the service and its database at random under writes, and look whether anything acknowledged is lost.

    make chaos ONLY=durability   (python -m chaos durability [--faults 100] [--seed N])

Two instances and a PostgreSQL run as processes. Clients record incidents, move them through their
states and change them, and repeat each write until its outcome is known. Meanwhile instances and
database are killed, stopped and frozen. Afterwards everything is read back, and `chaos/history.py`
judges. Beside them, a program writes single statements, some with a default `Retry` around, behind
a network that loses answers (`chaos/orders.py`): they too must be there as often as was
acknowledged to their writer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import httpx2

from chaos.faults import FAULTS, Fault, Tormentor
from chaos.history import judge
from chaos.reading import read_all
from chaos.stack import Stack, prepare
from chaos.statements import StatementFindings, Statements
from chaos.writers import Journal, Writing
from postfacta_lab.durability import Findings

__all__ = ["Durability", "Options", "check_durability", "longest_silence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to check.

    Attributes:
        faults: How many are caused.
        writers: Clients that write at once.
        seed: Of all choices; the same seed causes the same faults in the same order.
        minimum: Acknowledged writes below which the verdict is "unknown".
        kinds: Which faults; all kinds without any.
        environment: More settings of the instances.
        database: More settings of PostgreSQL, such as one that a checker must find out.
    """

    faults: int = 100
    writers: int = 8
    seed: int = 1
    minimum: int = 5000
    kinds: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    database: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Durability:
    """What was done, and what was found.

    Attributes:
        problems: What went wrong with the run itself, such as a service that did not come back.
        statements: What became of single statements.
        gaps: The longest time without any acknowledgement, for each kind of fault, in seconds.
    """

    options: Options
    findings: Findings
    faults: Sequence[Fault]
    answers: dict[str, int]
    gaps: dict[str, float]
    problems: Sequence[str]
    seconds: float
    statements: StatementFindings

    @property
    def verdict(self) -> str:
        """``pass``, ``fail`` or ``unknown``."""
        verdicts = {self.findings.verdict, self.statements.findings.verdict}
        if "fail" in verdicts:
            return "fail"
        return "unknown" if self.problems or "unknown" in verdicts else "pass"

    @property
    def exit_code(self) -> int:
        """0 for pass, 1 for fail, 2 for unknown."""
        return {"pass": 0, "fail": 1}.get(self.verdict, 2)

    def as_json(self) -> dict[str, object]:
        """Return it as plain data."""
        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "problems": list(self.problems),
            "options": asdict(self.options),
            "seconds": round(self.seconds, 1),
            "faults_caused": len(self.faults),
            "findings": self.findings.as_json(),
            "statements": self.statements.findings.as_json(),
            "statements_told": dict(self.statements.told.most_common()),
            "lost_answers": self.statements.lost_answers,
            "answers": self.answers,
            "longest_gap_seconds": self.gaps,
            "faults": [asdict(fault) for fault in self.faults],
        }


def check_durability(folder: Path, options: Options, *, template: Path | None = None) -> Durability:
    """Run the whole check.

    Args:
        folder: Where data and logs are written.
        options: How.
        template: What ``prepare`` made; by default it is made in the folder.
    """
    template = template or prepare(folder / "template")
    began = time.monotonic()
    journal = Journal()
    problems = list[str]()
    environment = dict(options.environment)
    database = dict(options.database)
    with Stack(folder / "stack", template, environment=environment, database=database) as stack:
        tormentor = Tormentor(stack, seed=options.seed, kinds=options.kinds)
        start = time.monotonic()
        statements = Statements(stack.dsn(), stack.folder, seed=options.seed)
        try:
            statements.start()
            problems += _under_writes(stack, options, journal, tormentor)
            problems += _attempted(stack.restore)
            findings = _read_back(stack, options, journal, problems)
            told = _end_statements(statements, options, problems)
        finally:
            statements.kill()
    return Durability(
        options=options,
        findings=findings,
        faults=tormentor.faults,
        answers=dict(journal.answers.most_common()),
        gaps=_gaps([at - start for at in journal.acknowledged_at], tormentor.faults),
        problems=problems,
        seconds=time.monotonic() - began,
        statements=told,
    )


def _end_statements(
    statements: Statements, options: Options, problems: list[str]
) -> StatementFindings:
    try:
        return statements.end(minimum=options.minimum)
    except (RuntimeError, TimeoutError, ValueError) as error:
        problems.append(f"the statements could not be judged: {error}")
        return StatementFindings(findings=Findings(minimum=options.minimum))


def _read_back(stack: Stack, options: Options, journal: Journal, problems: list[str]) -> Findings:
    """Read twice and judge; what cannot be read is no verdict about what is there."""
    try:
        first, second = (read_all(stack.urls[number % 2], stack.token) for number in range(2))
    except (httpx2.HTTPError, RuntimeError) as error:
        problems.append(f"it could not be read back: {error!r}")
        return Findings(minimum=options.minimum)
    if first.digest != second.digest:
        problems.append("two readings of the service at rest differ")
    return judge(journal.writes, first.stored, minimum=options.minimum, orphans=first.orphans)


def _under_writes(
    stack: Stack, options: Options, journal: Journal, tormentor: Tormentor
) -> list[str]:
    with Writing(
        stack.urls,
        stack.token,
        journal=journal,
        count=options.writers,
        seed=options.seed,
        fault=lambda: tormentor.current,
    ) as writing:
        problems = _attempted(lambda: tormentor.torment(options.faults, stop=writing.stop))
        problems += _attempted(stack.restore)
        writing.stop.wait(0.5)
    return [*problems, *writing.problems]


def _attempted(step: Callable[[], None]) -> list[str]:
    try:
        step()
    except (TimeoutError, RuntimeError, OSError) as error:
        return [f"{type(error).__name__}: {error}"]
    return []


def _gaps(acknowledged: Sequence[float], faults: Sequence[Fault]) -> dict[str, float]:
    """Find the longest silence around each kind of fault.

    What a client that writes all the time would see.
    """
    longest: dict[str, float] = {}
    for fault in faults:
        silence = longest_silence(acknowledged, fault.began, fault.healed + fault.recovered + 2.0)
        longest[fault.kind] = max(longest.get(fault.kind, 0.0), silence)
    return {kind: round(longest[kind], 3) for kind in FAULTS if kind in longest}


def longest_silence(acknowledged: Sequence[float], began: float, until: float) -> float:
    """Return the longest time without an acknowledgement between two moments."""
    inside = sorted([began, *(at for at in acknowledged if began <= at <= until), until])
    return max(later - earlier for earlier, later in pairwise(inside))
