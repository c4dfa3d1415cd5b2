"""Draws what chaos found, as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from chaos.durability import Durability
from chaos.tables import by_kind
from postfacta_lab.chaos.command import Experiment, overview, section_of
from postfacta_lab.engine.page import badge, facts, page, section, table

__all__ = ["as_html"]


def as_html(verdict: str, durability: Durability | None, experiments: Sequence[Experiment]) -> str:
    """Render it as HTML."""
    sections: list[str] = []
    if experiments:
        sections.append(overview(experiments))
    if durability is not None:
        sections += _durability(durability)
    sections += [section_of(it) for it in experiments]
    lead = "Faults were caused on real processes, while clients read and wrote."
    return page("Chaos", verdict, sections, lead=lead)


def _durability(found: Durability) -> list[str]:
    findings = found.findings
    what = (
        f"Seed {found.options.seed}: {len(found.faults)} faults, {found.options.writers} clients"
        f" that repeat each write with its key until they know its outcome, {found.seconds:.0f} s."
        f" At least {findings.minimum:,} acknowledged writes are needed for a verdict."
    )
    figures = {
        "acknowledged writes": f"{findings.acknowledged:,}",
        "attempts": f"{findings.attempts:,}",
        "attempts of unknown outcome": f"{findings.unclear_attempts:,}",
        **{name: f"{len(wrong):,}" for name, wrong in findings.wrong.items()},
    }
    details = [f"<li>{text}</li>" for text in _wrong(found)]
    return [
        section(
            "Durability",
            f"<p>{badge(found.verdict)}</p>",
            facts(figures),
            f"<ul>{''.join(details)}</ul>",
            about=what,
        ),
        section(
            "Faults",
            table(
                (
                    "fault",
                    "times",
                    "median s until healed",
                    "median s until answered",
                    "most s",
                    "longest silence s",
                ),
                by_kind(found),
            ),
            about=(
                "Healed: what was done is undone and the part runs. Answered: from then until every"
                " instance answers a read. Silence: the longest time without any acknowledged write"
                " around such a fault."
            ),
        ),
        section(
            "Unknown outcomes, explained",
            table(("fault: what the client saw first", "writes"), findings.explained.most_common()),
            table(("what became of it", "writes"), findings.resolved.most_common()),
            about=(
                "Replayed: an earlier attempt had been done, and its answer was given again."
                " Repeated: none had. Read: the client looked."
            ),
        ),
        section(
            "Single statements",
            table(("write: answer", "writes"), found.statements.told.most_common()),
            about=(
                "Statements alone and in transactions, half of them with a default Retry around,"
                f" behind a network that kept {found.statements.lost_answers:,} answers from their"
                " writers."
            ),
        ),
        section(
            "Answers to attempts", table(("write: answer", "attempts"), list(found.answers.items()))
        ),
    ]


def _wrong(found: Durability) -> list[str]:
    every = (*found.findings.wrong.items(), *found.statements.findings.wrong.items())
    lines = [f"{kind}: {text}" for kind, texts in every for text in texts[:20]]
    odd = [f"{fault.kind} of {fault.victim}: {fault.note}" for fault in found.faults if fault.note]
    return [escape(line) for line in (*found.problems, *lines, *odd)]
