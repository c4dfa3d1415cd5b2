"""Shows how the day went.

As JSON, as one HTML file with a line of time for each fault, as tables for a page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape

from chaos.gameday.day import Calm
from chaos.gameday.judge import FAST, Episode, Result
from chaos.gameday.keeper import Kept
from chaos.sink import Arrival
from chaos.tables import measured
from postfacta_lab.engine.page import badge, chart, facts, machine, page, section, table

__all__ = ["Told", "as_html", "as_json", "as_markdown"]

_WIDTH = 860
_LEFT = 250
_ROW = 22
_TOP = 20
_Scale = Callable[[float], float]
_HEAD = (
    "fault",
    "alert",
    "severity",
    "fired after",
    "at production's pace",
    "sent after",
    "resolved after repair",
    "runbook",
)
_STYLE = """<style>.band { fill: var(--c4); opacity: .13 } .pending { fill: var(--c2); opacity: .45 }
.firing { fill: var(--c4) } .dot { fill: var(--ink) } .lane { stroke: var(--line) }</style>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """All that a day has to tell.

    Attributes:
        compression: How much shorter the waits of alerting were.
        calm: The calm time.
        results: Of each row, in order.
        not_caused: Alerts that no row causes, and why.
        episodes: All alerts of the day.
        arrivals: All notifications.
        seconds: Requests and failures in each second.
        took: Seconds, all in all.
        kept: The incident that the day left behind.
    """

    compression: int
    calm: Calm
    results: Sequence[Result]
    not_caused: Mapping[str, str]
    episodes: Sequence[Episode]
    arrivals: Sequence[Arrival]
    seconds: Mapping[int, Sequence[int]]
    took: float
    kept: Kept

    @property
    def verdict(self) -> str:
        """`pass`, `fail`, or `not run` if nothing failed and something was not run."""
        verdicts = {it.verdict for it in self.results}
        if self.calm.reasons or "fail" in verdicts:
            return "fail"
        return "not run" if "not run" in verdicts or not verdicts else "pass"

    @property
    def noise(self) -> int:
        """How many alerts fired or were sent without a cause of ours."""
        return len(self.calm.noise) + sum(len(it.noise) for it in self.results)

    @property
    def notifications(self) -> int:
        """How many alerts were sent, without resolutions."""
        return sum(one.status == "firing" for one in self.arrivals)


def as_json(told: Told) -> dict[str, object]:
    """Return it as plain data."""
    return {
        "verdict": told.verdict,
        "compression": told.compression,
        "machine": machine(),
        "seconds": round(told.took, 1),
        "noise": told.noise,
        "notifications": told.notifications,
        "calm": told.calm.as_json(),
        "incident": told.kept.as_json(),
        "rows": [it.as_json() for it in told.results],
        "not_caused": dict(told.not_caused),
        "episodes": [asdict(one) for one in told.episodes if one.severity != "none"],
    }


def _rows(told: Told) -> list[list[str]]:
    return [
        [
            result.name,
            finding.alert,
            finding.severity or "-",
            _seconds(finding.fired_after),
            _seconds(finding.fired_after, result.compression),
            _seconds(finding.told_after),
            _seconds(finding.resolved_after),
            finding.runbook or "-",
        ]
        for result in told.results
        for finding in result.findings
    ]


def _seconds(value: float | None, by: float = 1.0) -> str:
    if value is None:
        return "never"
    length = value * by
    return f"{length:.1f} s" if by == 1.0 else f"{length // 60:.0f} m {length % 60:02.0f} s"


def as_markdown(told: Told) -> str:
    """Write the tables that a page of the documentation holds."""
    summary = (
        f"{measured()} Verdict: **{told.verdict}**. Compression {told.compression}; the whole day"
        f" took {told.took / 60:.0f} min. Calm time: {told.calm.seconds:.0f} s,"
        f" {len(told.calm.noise)} alerts. Notifications: {told.notifications}; noise: {told.noise}."
    )
    lines = [
        summary,
        "",
        "| " + " | ".join(_HEAD) + " |",
        "|" + "---|" * len(_HEAD),
        *("| " + " | ".join(row) + " |" for row in _rows(told)),
        "",
        "| fault | what was done | verdict | users' requests that failed | also fired | not met |",
        "|---|---|---|---|---|---|",
    ]
    for it in told.results:
        cells = (
            it.name,
            it.what,
            it.verdict,
            _failed(it),
            ", ".join(it.others) or "-",
            " ".join("; ".join(it.reasons).split()) or "-",  # a cell is one line
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| alert that no row causes | why |", "|---|---|"]
    lines += [f"| {name} | {why} |" for name, why in sorted(told.not_caused.items())]
    return "\n".join(lines) + "\n"


def _failed(result: Result) -> str:
    if not result.users:
        return "-"
    return f"{result.users['failed']:.0f} of {result.users['requests']:.0f}"


def as_html(told: Told) -> str:
    """Render it as HTML."""
    lead = (
        "Each fault was caused on real processes under users' load, while a real Prometheus and a"
        f" real Alertmanager watched. Their windows, waits and intervals were {told.compression}"
        " times shorter than in production; what the service itself waits for was not. So times"
        " multiplied back are the most that production can take."
    )
    passed = sum(it.verdict == "pass" for it in told.results)
    figures = {
        "rows passed": f"{passed} of {len(told.results)}",
        "alerts in the calm time": str(len(told.calm.noise)),
        "noise": str(told.noise),
        "notifications": str(told.notifications),
        "compression": f"{told.compression}",
        "minutes": f"{told.took / 60:.0f}",
    }
    rows = [
        [it.name, it.what, badge(it.verdict), _failed(it), "; ".join(it.reasons)]
        for it in told.results
    ]
    users = [(float(second), float(counts[0])) for second, counts in sorted(told.seconds.items())]
    failed = [(float(second), float(counts[1])) for second, counts in sorted(told.seconds.items())]
    marks = [it.course.caused for it in told.results if it.course]
    sections = [
        _STYLE + facts(figures),
        section("Rows", table(("fault", "what was done", "", "failed requests", "not met"), rows)),
        section(
            "Alerts",
            table(_HEAD, _rows(told)),
            about=f"A row marked fast must page within {FAST:g} s at production's pace.",
        ),
        section(
            "The day",
            chart(
                {"requests": users, "failed": failed},
                x="seconds; dashed: a fault was caused",
                y="a second",
                marks=marks,
            ),
            _calm(told.calm),
        ),
        *(_course(it, told) for it in told.results if it.course is not None),
        section(
            "Alerts that no row causes", table(("alert", "why"), sorted(told.not_caused.items()))
        ),
    ]
    return page("Game day", told.verdict, sections, lead=lead)


def _calm(calm: Calm) -> str:
    verdict = badge("fail" if calm.reasons else "pass")
    text = (
        f"{calm.seconds:.0f} s without a fault: {len(calm.noise)} alerts, {calm.watchdog} signs of"
        " life."
    )
    return f"<p>{verdict} {escape(text)} {escape('; '.join(calm.reasons))}</p>"


def _course(result: Result, told: Told) -> str:
    course = result.course
    if course is None:
        return ""
    here = [
        one
        for one in told.episodes
        if one.severity != "none"
        and one.seen <= course.ended
        and (one.ended or course.ended) >= course.began
    ]
    lanes: dict[str, list[Episode]] = {}
    for one in here:
        more = [
            one.labels[key] for key in ("slo", "burnrate_tier", "instance") if key in one.labels
        ]
        lanes.setdefault(
            " ".join([one.labels["alertname"].removeprefix("Postfacta"), *more]), []
        ).append(one)
    wide = max(course.ended - course.began, 1e-9)

    def x(moment: float) -> float:
        at = min(max(moment, course.began), course.ended) - course.began
        return _LEFT + at / wide * (_WIDTH - _LEFT - 12)

    height = _TOP + _ROW * max(1, len(lanes)) + 24
    lasted = x(course.mended) - x(course.caused)
    parts = [
        (
            f'<rect class="band" x="{x(course.caused):.1f}" y="{_TOP}" height="{height - _TOP - 24}"'
            f' width="{lasted:.1f}"/>'
        )
    ]
    for number, (name, episodes) in enumerate(sorted(lanes.items())):
        parts += _lane(name, episodes, _TOP + number * _ROW, x=x, last=course.ended)
        arrived = [one for one in told.arrivals if any(one.labels == it.labels for it in episodes)]
        parts += [
            f'<circle class="dot" r="4" cx="{x(one.at):.1f}" cy="{_TOP + number * _ROW + 11}">'
            f"<title>{escape(one.status)}, sent to {escape(one.receiver)}</title></circle>"
            for one in arrived
            if course.began <= one.at <= course.ended
        ]
    for moment in (course.began, course.caused, course.mended, course.ended):
        text = f"{moment - course.caused:+.0f} s"
        parts.append(
            f'<text x="{x(moment):.1f}" y="{height - 6}" text-anchor="middle">{text}</text>'
        )
    drawn = (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="alerts over'
        f' time">{"".join(parts)}</svg>'
    )
    about = (
        "Shaded: the fault lasted. Light: pending; dark: firing; dots: a notification was sent,"
        " also of the end."
    )
    return section(
        f"{result.name}: {result.what}", f"<p>{badge(result.verdict)}</p>", drawn, about=about
    )


def _lane(name: str, episodes: Sequence[Episode], top: int, *, x: _Scale, last: float) -> list[str]:
    parts = [
        f'<text x="0" y="{top + 15}">{escape(name)}</text>',
        f'<line class="lane" x1="{_LEFT}" x2="{_WIDTH - 12}" y1="{top + _ROW}" y2="{top + _ROW}"/>',
    ]
    for one in episodes:
        end = one.ended if one.ended is not None else last
        turns = one.fired if one.fired is not None else end
        parts += [
            f'<rect class="{kind}" x="{x(first):.1f}" y="{top + 6}" height="10"'
            f' width="{max(x(until) - x(first), 1.0):.1f}"/>'
            for kind, first, until in (("pending", one.seen, turns), ("firing", turns, end))
            if until > first
        ]
    return parts
