"""Judges what alerts did about a fault; it looks at what was seen, and at no clock.

1. Each expected alert must fire, be sent to the receiver of its severity, lead to a runbook that
   exists, and end after the repair. Its end must be sent as well.
2. What fires or is sent without being expected or allowed is noise. Noise that pages is a failure,
   other noise too.
3. The runbook's commands were run: the diagnosis must answer during the fault, and what says
   "recovered" must say so after the repair and not before.
4. A row that could not be caused is `not run`, with the reason; never a pass.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath

from chaos.gameday.rows import Pattern, Row
from chaos.sink import Arrival

__all__ = [
    "FAST",
    "RECEIVERS",
    "Command",
    "Course",
    "Episode",
    "Finding",
    "Result",
    "judge",
    "noise",
    "not_run",
]

FAST = 120.0
"""Seconds at production's pace within which a fast burn must fire."""

RECEIVERS = {"page": "pager", "ticket": "ticket"}
"""The receiver of each severity."""

_HONEST = 10.0  # Compressed by more, a second of the service's own counts for too much of the two minutes.


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One alert from its first sight to its end; times are seconds since the start of the day.

    Attributes:
        labels: What tells it from others.
        annotations: As they were when it was seen first.
        seen: When it was pending or firing first.
        fired: When it fired first; None if it never did.
        ended: When it was gone; None while it is there.
    """

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    seen: float
    fired: float | None = None
    ended: float | None = None

    @property
    def severity(self) -> str:
        """Its severity: `page`, `ticket` or `none`."""
        return self.labels.get("severity", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What happened from when to when; seconds since the start of the day.

    Attributes:
        began: Nothing was done yet, and all was quiet.
        caused: The fault began.
        mended: Its cause was gone.
        ended: The observation ended.
    """

    began: float
    caused: float
    mended: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one expected alert did.

    Seconds since the fault began, and at the end since the repair. None is never.
    """

    alert: str
    severity: str
    pending_after: float | None
    fired_after: float | None
    told_after: float | None
    resolved_after: float | None
    told_resolved_after: float | None
    runbook: str
    has_runbook: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One block of commands of a runbook that was run.

    Attributes:
        place: The line in the row's runbook.
        role: `diagnose` or `verify`.
        during: Whether the fault still lasted.
        code: The exit code.
        said: The end of what it complained about.
    """

    place: str
    role: str
    during: bool
    code: int
    said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a row went.

    Attributes:
        name: The row's.
        what: What was done.
        verdict: `pass`, `fail` or `not run`.
        reasons: What was not met, or why it was not run.
        findings: Of the expected alerts.
        others: Which of the allowed fired.
        noise: What fired and was neither.
        commands: What was run of the runbook.
        course: When what was done.
        users: Requests and failures while the fault lasted.
        compression: How much shorter the waits of alerting were than in production.
    """

    name: str
    what: str
    verdict: str
    reasons: tuple[str, ...]
    compression: float = 1.0
    findings: tuple[Finding, ...] = ()
    others: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()
    commands: tuple[Command, ...] = ()
    course: Course | None = None
    users: Mapping[str, float] = field(default_factory=dict[str, float])

    def as_json(self) -> dict[str, object]:
        """Return it as plain data."""
        return asdict(self)


def not_run(row: Row, reason: str) -> Result:
    """Return the result of a row that was not run, with the reason."""
    return Result(name=row.name, what=row.what, verdict="not run", reasons=(reason,))


def judge(
    row: Row,
    course: Course,
    *,
    episodes: Sequence[Episode],
    arrivals: Sequence[Arrival],
    runbooks: Collection[str],
    compression: float,
    commands: Sequence[Command] = (),
    users: Mapping[str, float] | None = None,
) -> Result:
    """Judge one row.

    Args:
        row: What was to happen.
        course: When it was done.
        episodes: Alerts that were there at some time between its beginning and its end.
        arrivals: Notifications in that time, at moments of the same clock.
        runbooks: The names of the files that there are.
        compression: How much shorter the waits of alerting were than in production.
        commands: What was run of the runbook.
        users: Requests and failures while the fault lasted.
    """
    findings = tuple(_find(it, course, episodes, arrivals, runbooks) for it in row.expect)
    reasons = [reason for finding in findings for reason in _unmet(finding)]
    if findings[0].runbook and findings[0].runbook != row.runbook:
        reasons.append(
            f"{findings[0].alert} leads to {findings[0].runbook}, and the table says {row.runbook}"
        )
    if row.fast:
        reasons += _slow(findings, compression)
    reasons += [f"{row.runbook}, {reason}" for one in commands if (reason := _failed(one))]
    odd = noise(episodes, arrivals, (*row.expect, *row.allow))
    reasons += [f"noise: {name}" for name in odd]
    fired = [one for one in episodes if one.fired is not None]
    others = {str(it) for it in row.allow for one in fired if it.matches(one.labels)}
    return Result(
        name=row.name,
        what=row.what,
        verdict="fail" if reasons else "pass",
        reasons=tuple(reasons),
        compression=compression,
        findings=findings,
        others=tuple(sorted(others)),
        noise=odd,
        commands=tuple(commands),
        course=course,
        users=users or {},
    )


def noise(
    episodes: Sequence[Episode], arrivals: Sequence[Arrival], known: Sequence[Pattern] = ()
) -> tuple[str, ...]:
    """List what fired or was sent, and was neither expected nor allowed.

    Alerts without a receiver are left out.
    """
    labels = [one.labels for one in episodes if one.fired is not None]
    labels += [one.labels for one in arrivals if one.status == "firing"]
    return tuple(
        sorted(
            {
                f"{one.get('severity')}: {_name(one)}"
                for one in labels
                if one.get("severity") in RECEIVERS and not any(it.matches(one) for it in known)
            }
        )
    )


def _name(labels: Mapping[str, str]) -> str:
    more = [labels[key] for key in ("slo", "burnrate_tier") if key in labels]
    return (
        f"{labels.get('alertname')} ({', '.join(more)})" if more else str(labels.get("alertname"))
    )


def _find(
    pattern: Pattern,
    course: Course,
    episodes: Sequence[Episode],
    arrivals: Sequence[Arrival],
    runbooks: Collection[str],
) -> Finding:
    ours = [one for one in episodes if pattern.matches(one.labels) and one.seen >= course.began]
    fired = sorted((one for one in ours if one.fired is not None), key=lambda one: one.fired or 0.0)
    told = [one for one in arrivals if pattern.matches(one.labels) and one.at >= course.caused]
    severity = fired[0].severity if fired else ""
    to_us = [one for one in told if one.receiver == RECEIVERS.get(severity)]
    ended = [one.ended for one in fired]
    last = None if None in ended else max((at for at in ended if at is not None), default=None)
    runbook = PurePosixPath(fired[0].annotations.get("runbook_url", "")).name if fired else ""
    firing = [one.at for one in to_us if one.status == "firing"]
    over = [one.at for one in to_us if one.status == "resolved" and firing and one.at > firing[0]]
    return Finding(
        alert=str(pattern),
        severity=severity,
        pending_after=_since(course.caused, min((one.seen for one in ours), default=None)),
        fired_after=_since(course.caused, fired[0].fired if fired else None),
        told_after=_since(course.caused, min(firing, default=None)),
        resolved_after=_since(course.mended, last),
        told_resolved_after=_since(course.mended, max(over, default=None)),
        runbook=runbook,
        has_runbook=runbook in runbooks,
    )


def _since(moment: float, at: float | None) -> float | None:
    return None if at is None else round(max(0.0, at - moment), 2)


def _unmet(finding: Finding) -> list[str]:
    if finding.fired_after is None:
        seen = (
            ""
            if finding.pending_after is None
            else f", though pending after {finding.pending_after:g} s"
        )
        return [f"{finding.alert} did not fire{seen}"]
    reasons: list[str] = []
    if finding.severity not in RECEIVERS:
        reasons.append(
            f"{finding.alert} has the severity {finding.severity!r}, which has no receiver"
        )
    elif finding.told_after is None:
        reasons.append(f"{finding.alert} fired, and {RECEIVERS[finding.severity]} was not notified")
    if not finding.has_runbook:
        reasons.append(f"{finding.alert} leads to no runbook: {finding.runbook or 'it names none'}")
    if finding.resolved_after is None:
        reasons.append(f"{finding.alert} was not resolved after the repair")
    elif finding.told_resolved_after is None:
        reasons.append(f"{finding.alert} was resolved, and no notification was sent")
    return reasons


def _failed(command: Command) -> str:
    if command.role == "verify" and command.during:
        return (
            "" if command.code else f"{command.place}: says that all is well while the fault lasts"
        )
    wanted = (
        "the diagnosis"
        if command.role == "diagnose"
        else "after the repair, what must say that all is well"
    )
    return (
        f"{command.place}: {wanted} ended with {command.code}: {command.said}"
        if command.code
        else ""
    )


def _slow(findings: Sequence[Finding], compression: float) -> list[str]:
    if compression > _HONEST:
        return []
    pages = [one for one in findings if one.severity == "page" and one.fired_after is not None]
    first = min((compression * (one.fired_after or 0.0) for one in pages), default=0.0)
    if first < FAST:
        return []
    return [
        f"the first page fired after {first:.0f} s at production's pace, and not within {FAST:g} s"
    ]
