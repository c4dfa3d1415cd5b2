"""Writes results as Markdown between marks of a page, so that figures are never copied by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from chaos.durability import Durability
from chaos.faults import Fault
from postfacta_lab.chaos.command import Experiment
from postfacta_lab.engine.page import machine
from postfacta_lab.load.gate import percentile

__all__ = ["by_kind", "measured", "replace_tables"]

_HEAD = ("experiment", "verdict", "requests", "failed", "longest wait s", "well again after s")


def measured() -> str:
    """Name the machine of some figures and their day, by which a readiness review sees how old they are."""
    about = ", ".join(f"{name} {value}" for name, value in machine().items() if name != "revision")
    return f"Machine: {about}. Measured on {datetime.now(UTC):%Y-%m-%d}."  # noqa: TID251 - of a report


def by_kind(found: Durability) -> list[tuple[str, int, float, float, float, float]]:
    """Sum up the faults of each kind.

    Returns:
        Kind, count, median seconds until healed, median and most until answered, longest silence of
        writes.
    """
    kinds: dict[str, list[Fault]] = {}
    for fault in found.faults:
        kinds.setdefault(fault.kind, []).append(fault)
    return [
        (
            kind,
            len(faults),
            percentile([fault.healed - fault.began for fault in faults], 0.5),
            percentile([fault.recovered for fault in faults], 0.5),
            max(fault.recovered for fault in faults),
            found.gaps.get(kind, 0.0),
        )
        for kind, faults in kinds.items()
    ]


def replace_tables(
    page: Path, durability: Durability | None, experiments: Sequence[Experiment]
) -> None:
    """Put the figures into a page, in place of those between its marks; what was not run stays.

    Raises:
        ValueError: The page lacks the marks of something that was run.
    """
    if durability is not None:
        _replace(page, "durability", _tables(durability))
    if experiments:
        _replace(page, "experiments", "\n".join(_table(_HEAD, map(_row, experiments))))


def _replace(page: Path, name: str, tables: str) -> None:
    first = f"<!-- {name}: begin -->"
    last = f"<!-- {name}: end -->"
    before, begin, rest = page.read_text().partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"{page} lacks the lines {first} and {last}")
    page.write_text(f"{before}{begin}\n{tables}\n{end}{after}")


def _row(it: Experiment) -> tuple[object, ...]:
    users = it.users.get("users", {})
    recoveries = it.users.get("recoveries", [])
    name, _, claim = it.title.partition(" ")
    return (
        f"{name} {claim}",
        f"**{it.verdict}**" + "".join(f"; {reason}" for reason in it.reasons),
        users.get("count", 0),
        users.get("failed", 0),
        f"{users.get('longest', 0.0):.2f}",
        ", ".join(f"{seconds:.2f}" for seconds in recoveries),
    )


def _tables(found: Durability) -> str:
    findings = found.findings
    summary: list[tuple[object, ...]] = [
        ("verdict", f"**{found.verdict}**"),
        ("faults", len(found.faults)),
        ("seconds", f"{found.seconds:.0f}"),
        ("acknowledged writes", f"{findings.acknowledged:,}"),
        ("attempts", f"{findings.attempts:,}"),
        ("attempts whose outcome was unknown", f"{findings.unclear_attempts:,}"),
        *((name, len(wrong)) for name, wrong in findings.wrong.items()),
        ("writes that stayed unknown to their client", findings.unknown),
    ]
    faults = [
        (kind, count, *(f"{value:.2f}" for value in values))
        for kind, count, *values in by_kind(found)
    ]
    explained = findings.explained.most_common()
    return "\n".join(
        [
            (
                f"{measured()} Seed {found.options.seed}, {found.options.writers} clients, 2"
                " instances.\n"
            ),
            *_table(("", "measured"), summary),
            "",
            *_table(
                (
                    "fault",
                    "times",
                    "median s until healed",
                    "median s until answered",
                    "most s",
                    "longest silence s",
                ),
                faults,
            ),
            "",
            *_table(("unknown first, and why", "writes"), explained),
            "",
            *_table(("how its client found out", "writes"), findings.resolved.most_common()),
            "",
            *_table(("single statements", "measured"), _statements(found)),
        ]
    )


def _statements(found: Durability) -> list[tuple[object, ...]]:
    findings = found.statements.findings
    return [
        ("acknowledged", f"{findings.acknowledged:,}"),
        ("answers that were kept from their writer", f"{found.statements.lost_answers:,}"),
        ("answered as not done", f"{findings.refused:,}"),
        ("answered as unknown", f"{findings.unknown:,}"),
        ("of those, done", f"{findings.unknown_done:,}"),
        *((name, len(wrong)) for name, wrong in findings.wrong.items()),
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
    ]
