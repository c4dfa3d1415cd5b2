"""Shows a review: as JSON, as Markdown, and as one page of HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from deploy.prr.judge import Finding, Result
from deploy.prr.table import Row, Tier
from postfacta_lab.engine.page import badge, facts, page, section, table
from postfacta_lab.verdict import Verdict

__all__ = ["as_html", "as_json", "as_markdown", "as_table"]

_WORDS = {
    Verdict.PASS: "pass",
    Verdict.FAIL: "fail",
    Verdict.INVALID: "not run",
    Verdict.NOTHING: "nothing",
}


def _counts(findings: Iterable[Finding]) -> dict[str, str]:
    counted = Counter(one.result for one in findings)
    return {result.value: str(counted[result]) for result in Result}


def _proofs(row: Row) -> Iterator[str]:
    for proof in row.proofs:
        if proof.shown:
            yield proof.shown


def as_json(
    findings: Sequence[Finding], found: Verdict, tier: Tier, *, about: Mapping[str, str]
) -> dict[str, object]:
    """Return it as plain data."""
    return {
        "verdict": _WORDS[found],
        "tier": tier.name.lower(),
        "about": dict(about),
        "rows": [
            {
                "id": one.row.id,
                "question": one.row.question,
                "tier": one.row.tier.name.lower(),
                "proof": list(_proofs(one.row)),
                "result": one.result.value,
                "why": one.why,
                "seconds": round(one.seconds, 1),
            }
            for one in findings
        ],
    }


def as_markdown(
    findings: Sequence[Finding], found: Verdict, tier: Tier, *, about: Mapping[str, str]
) -> str:
    """Write it as Markdown, for the summary of a job and for a page."""
    counts = ", ".join(f"{number} {name}" for name, number in _counts(findings).items())
    return "\n".join((
        "# Readiness review", "",
        f"**{_WORDS[found]}**, tier {tier.name.lower()}: {counts}.", "",
        f"{', '.join(f'{name} {text}' for name, text in about.items())}.", "",
        "| row | question | result | what it rests on |",
        "|---|---|---|---|",
        *(f"| {one.row.id} | {one.row.question} | {_bold(one.result)} | {_cell(one.why)} |" for one in findings),
        "",
    ))  # fmt: skip


def as_html(
    findings: Sequence[Finding], found: Verdict, tier: Tier, *, about: Mapping[str, str]
) -> str:
    """Write it as one file of HTML: what is no pass stands first."""
    head = ("row", "question", "", "what it rests on", "command")

    def rows(*results: Result) -> list[tuple[str, ...]]:
        return [
            (
                one.row.id,
                one.row.question,
                badge(one.result.value),
                one.why,
                "; ".join(_proofs(one.row)),
            )
            for one in findings
            if one.result in results
        ]

    named = {
        "Failed": (Result.FAIL,), "Waived, and not run": (Result.WAIVED, Result.NOT_RUN), "Passed": (Result.PASS,),
    }  # fmt: skip
    sections = [
        section(title, table(head, lines)) for title, of in named.items() if (lines := rows(*of))
    ]
    lead = f"Tier {tier.name.lower()}: its rows and those of the tiers before it must be answered."
    return page(
        "Readiness review",
        _WORDS[found],
        [facts(_counts(findings)), *sections],
        lead=lead,
        state=about,
    )


def as_table(rows: Iterable[Row]) -> str:
    """Write the questions themselves, for the page on the review."""
    return "\n".join((
        "| row | question | tier | answered by |",
        "|---|---|---|---|",
        *(f"| {row.id} | {row.question} | {row.tier.name.lower()} | {_shown(row)} |" for row in rows), "",
    ))  # fmt: skip


def _shown(row: Row) -> str:
    return "; ".join(f"`{shown}`" for shown in _proofs(row)) or "nothing yet"


def _bold(result: Result) -> str:
    return f"**{result}**" if result is not Result.PASS else result.value


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
