"""Report the target figures, each with what it was counted from.

Availability, detection, repair, deployments, noise.

    python -m deploy.prr.targets --prometheus http://127.0.0.1:9090 --service
    https://postfacta.example.org \
        --token-file token --ledger ledger.jsonl --month 3

Without a source, its figures are *not enough data*, as they are with too few values. The game day's
are read from its page. Exit codes: 0 all targets of the month are met, 1 one is not, 2 for one
there is not enough data, 3 wrong usage.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx2

from deploy.ledger import LEAST, Entry, LedgerError, read, summary
from loadtests.drain.report import put
from postfacta_lab.verdict import Verdict, overall
from postfacta_slo.promise.promql import SloError
from postfacta_slo.status.prometheus import Prometheus, PrometheusError
from postfacta_slo.status.query import ENOUGH, SloStatus, query_status

__all__ = [
    "TARGETS", "Figure", "Target", "as_table", "main", "of_durations", "of_gameday", "of_ledger", "of_objectives",
]  # fmt: skip

_ROOT: Final = Path(__file__).resolve().parents[2]
_WEEKS: Final = 4
_PATIENCE: Final = 10.0
_NOT_ENOUGH: Final = "not enough data"
_WORDS: Final = {Verdict.PASS: "met", Verdict.FAIL: "not met", Verdict.INVALID: _NOT_ENOUGH}


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure, and what it was counted from.

    Attributes:
        value: None if it is not known.
        n: How many values it rests on.
        source: Where they come from, or why there are none.
    """

    value: float | None
    n: int
    source: str


@dataclass(frozen=True, slots=True)
class Target:
    """What is aimed at in the first month, and from the third on.

    Attributes:
        least: The fewest values that tell anything.
        of: What they are.
        show: Writes a value.
        is_floor: Whether a value must be at least the target; else it is the most.
        is_share: Whether it is a share of the values, of which one may then not decide alone.
    """

    name: str
    months: Mapping[int, float]
    least: int
    of: str
    show: Callable[[float], str]
    is_floor: bool = True
    is_share: bool = False

    def judge(self, figure: Figure, month: int) -> Verdict:
        """Compare a figure with the target of a month."""
        aim = self.months[month]
        least = max(self.least, round(1 / min(aim, 1 - aim))) if self.is_share else self.least
        if figure.value is None or figure.n < least:
            return Verdict.INVALID
        return (
            Verdict.PASS
            if (figure.value >= aim if self.is_floor else figure.value <= aim)
            else Verdict.FAIL
        )


def _percent(value: float) -> str:
    return f"{value:.2%}".replace(".00%", "%")


def _minutes(value: float) -> str:
    return f"{value / 60:.1f} min"


def _rate(value: float) -> str:
    return f"{value:g} a week"


TARGETS: Final[Mapping[str, Target]] = {
    "availability": Target(
        "good minutes of 30 days", {1: 0.99, 3: 0.995}, round(100 * ENOUGH), "% of them recorded", _percent
    ),
    "success-rate": Target(
        "requests that succeed", {1: 0.995, 3: 0.995}, round(100 * ENOUGH), "% of 30 days recorded", _percent
    ),
    "detect-gameday": Target(
        "mean time to the page, on the game day", {1: 600, 3: 300}, 5, "faults that page", _minutes, is_floor=False
    ),
    "detect": Target(
        "median time to detect an incident", {1: 600, 3: 300}, 5, "incidents", _minutes, is_floor=False
    ),
    "mitigate": Target(
        "median time until its impact ends", {1: 1800, 3: 900}, 5, "incidents", _minutes, is_floor=False
    ),
    "deployments": Target("deployments", {1: 1, 3: 7}, 7 * _WEEKS, "days in the ledger", _rate),
    "deploy-success": Target(
        "deployments that succeed and stay", {1: 0.95, 3: 0.99}, LEAST, "deployments", _percent, is_share=True
    ),
    "noise": Target(
        "notifications without a cause", {1: 0.3, 3: 0.1}, 20, "notifications", _percent, is_floor=False, is_share=True
    ),
}  # fmt: skip


def of_objectives(statuses: Iterable[SloStatus], source: str) -> dict[str, Figure]:
    """Read the share that was good; what was recorded of the window is its n, in percent."""
    return {
        one.slo: Figure(
            None if one.error is None else one.achieved, int(100 * one.coverage), source
        )
        for one in statuses
        if one.slo in {"availability", "success-rate"}
    }


def of_durations(answer: Mapping[str, Any], source: str) -> dict[str, Figure]:
    """Read the medians that PostFacta gives of its own incidents."""
    return {
        name: Figure(answer["durations"][name]["p50"], answer["durations"][name]["n_ok"], source)
        for name in ("detect", "mitigate")
    }


def of_ledger(entries: Sequence[Entry], now: datetime, source: str) -> dict[str, Figure]:
    """Count the deployments of one environment."""
    since = now - timedelta(weeks=_WEEKS)
    began = [datetime.fromisoformat(one.at) for one in entries]
    last = sum(at >= since for at, one in zip(began, entries, strict=True) if one.kind == "deploy")
    found = summary(entries)
    days = (now - min(began)).days if began else 0
    return {
        "deployments": Figure(last / _WEEKS, days, source),
        "deploy-success": Figure(found.success, found.deploys, source),
    }


def of_gameday(page: str, source: str) -> dict[str, Figure]:
    """Read when faults paged, at production's pace, and how many notifications were noise."""
    cells = r"^\| \S+ \| [^|]+ \| page \| [^|]+ \| (\d+) m (\d\d) s \|"
    pages = [
        60 * int(minutes) + int(rest) for minutes, rest in re.findall(cells, page, re.MULTILINE)
    ]
    counted = re.search(r"Notifications: (\d+); noise: (\d+)", page)
    sent, noise = map(int, counted.groups()) if counted else (0, 0)
    return {
        "detect-gameday": Figure(statistics.fmean(pages) if pages else None, len(pages), source),
        "noise": Figure(noise / sent if sent else None, sent, source),
    }


def as_table(figures: Mapping[str, Figure]) -> str:
    """Write all figures with both of their targets."""
    lines = [
        "| figure | value | counted from | month 1 | so it is | month 3 | so it is | source |",
        f"|{'---|' * 8}",
    ]
    for name, target in TARGETS.items():
        figure = figures[name]
        aims = (
            f"{'≥' if target.is_floor else '≤'} {target.show(aim)} |"
            f" {_WORDS[target.judge(figure, month)]}"
            for month, aim in target.months.items()
        )
        value = (
            _NOT_ENOUGH
            if target.judge(figure, 1) is Verdict.INVALID
            else target.show(figure.value or 0.0)
        )
        lines.append(
            f"| {target.name} | {value} | {figure.n} {target.of} | {' | '.join(aims)} |"
            f" {figure.source} |"
        )
    return "\n".join((*lines, ""))


def main(words: Sequence[str] | None = None) -> int:
    """Report; return the exit code."""
    parser = argparse.ArgumentParser(
        "python -m deploy.prr.targets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--prometheus", help="the address of one that runs the rules of the objectives"
    )
    parser.add_argument("--service", help="the address of the PostFacta that holds the incidents")
    parser.add_argument(
        "--token-file", type=Path, help="holds a token with the scope incidents:read"
    )
    parser.add_argument("--ledger", type=Path, help="of deployments, as deploy/ledger.py writes it")
    parser.add_argument(
        "--environment", default="production", help="whose deployments count (%(default)s)"
    )
    parser.add_argument(
        "--month", type=int, choices=(1, 3), default=1, help="whose targets decide (%(default)s)"
    )
    parser.add_argument("--page", type=Path, help="write the table into this page too")
    given = parser.parse_args(words)
    now = datetime.now(UTC)  # noqa: TID251 - what a report is of
    figures = {name: Figure(None, 0, "not asked") for name in TARGETS}
    for found in _found(given, now):
        figures |= found
    text = as_table(figures)
    sys.stdout.write(text)
    if given.page and not put(given.page, "targets", f"{text}\nMeasured on {now:%Y-%m-%d}.\n"):
        return int(Verdict.NOTHING)
    return int(
        overall(target.judge(figures[name], given.month) for name, target in TARGETS.items())
    )


def _found(given: argparse.Namespace, now: datetime) -> Iterable[Mapping[str, Figure]]:
    page = _ROOT / "docs/reference/gameday.md"
    yield of_gameday(page.read_text(), "[game day](gameday.md)")
    if given.prometheus:
        yield _tried(
            ("availability", "success-rate"),
            "Prometheus",
            lambda: _objectives(given.prometheus, now),
        )
    if given.service:
        yield _tried(
            ("detect", "mitigate"), "PostFacta", lambda: _durations(given.service, given.token_file)
        )
    if given.ledger:
        yield _tried(("deployments", "deploy-success"), "ledger", lambda: _ledger(given, now))


def _tried(
    names: Iterable[str], source: str, ask: Callable[[], Mapping[str, Figure]]
) -> Mapping[str, Figure]:
    """Ask a source; one that does not answer gives no figure, and says why."""
    try:
        return ask()
    except (
        PrometheusError,
        SloError,
        LedgerError,
        httpx2.HTTPError,
        OSError,
        ValueError,
        LookupError,
    ) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        return {name: Figure(None, 0, f"{source}: {said}") for name in names}


def _objectives(url: str, now: datetime) -> Mapping[str, Figure]:
    return of_objectives(query_status(Prometheus(url), at=now.timestamp()), "Prometheus")


def _durations(url: str, token: Path | None) -> Mapping[str, Figure]:
    headers = {"Authorization": f"Bearer {token.read_text().strip()}"} if token else {}
    answer = httpx2.get(f"{url.rstrip('/')}/api/v1/durations", headers=headers, timeout=_PATIENCE)
    answer.raise_for_status()
    return of_durations(answer.json(), "PostFacta")


def _ledger(given: argparse.Namespace, now: datetime) -> Mapping[str, Figure]:
    if not given.ledger.exists():
        raise LookupError("there is no such file")
    return of_ledger(
        [one for one in read(given.ledger) if one.environment == given.environment], now, "ledger"
    )


if __name__ == "__main__":
    sys.exit(main())
