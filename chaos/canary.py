"""Execute the canary that is shipped with five builds, on a real HAProxy and a real Prometheus.

    python -m chaos.canary [--by 10] [--only good] [--markdown FILE]

Steps, queries, conditions, limits and intervals are read from deploy/k8s/overlays/canary; every
wait and window is divided by one factor. A good build is promoted; builds that fail, are slow, leak
or show no metrics are aborted. Exit codes: 0 all held, 1 something did not, 77 a program is not
installed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
import yaml

from chaos.delivery import Build, Site, measured_on, missing_programs
from chaos.durations import compress_expression, seconds
from chaos.together import drill_folder, drill_parser, publish
from deploy.canary.analysis import Metric, Phase, assessed, measured, metrics_of, weights_of, worst
from deploy.outcome import NOT_RUN

__all__ = ["BUILDS", "OVERLAY", "Row", "analyse", "drill", "failed", "main"]

OVERLAY = Path(__file__).parent.parent / "deploy/k8s/overlays/canary"
"""What is shipped."""

_BY = 10.0
_RATE = 50.0
_AFTER = 2.6  # seconds in which users are looked at once it is decided
_SECRET = {"POSTFACTA_METRICS_TOKEN": "a-token-that-the-scraper-does-not-have"}

STABLE = Build("stable")
BUILDS = {
    "good": Build("good"),
    "errors": Build("errors", "errors"),
    "slow": Build("slow", "slow"),
    "leaking": Build("leaking", "leaking"),
    "silent": Build("silent", environment=_SECRET),
}
"""The builds that are tried, the good one first: it then is what the others are compared with."""

_ABOUT = {
    "good": "as it should be",
    "errors": "each fifth request is a 500",
    "slow": "each request takes 700 ms longer",
    "leaking": "keeps 4 MB of each request",
    "silent": "its metrics need a token that Prometheus lacks",
}
Ask = Callable[[str], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Row:
    """What became of a build.

    Attributes:
        build: Its name.
        verdict: Of the last analysis.
        by: The metrics that decided.
        weight: The share of requests, in percent, that it had at last.
        seconds: From its first request to the verdict.
        answers: What users got meanwhile: how many good ones, and how many errors of each kind.
        after: The same, for two seconds once it was decided.
    """

    build: str
    verdict: Phase
    by: str
    weight: int
    seconds: float
    answers: Mapping[str, int]
    after: Mapping[str, int]

    @property
    def is_held(self) -> bool:
        """Whether only the good build was promoted, and no bad one hurt more users than its weight."""
        served = sum(self.answers.values()) > 0 and not failed(self.after)
        if self.build == "good":
            return served and self.verdict is Phase.SUCCESSFUL and not failed(self.answers)
        most = sum(self.answers.values()) * self.weight / 100
        return (
            served and self.verdict in {Phase.FAILED, Phase.ERROR} and failed(self.answers) <= most
        )


def failed(answers: Mapping[str, int]) -> int:
    """Count the answers that were no good ones."""
    return sum(number for error, number in answers.items() if error)


def analyse(
    metrics: Sequence[Metric],
    ask: Ask,
    by: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,  # noqa: TID251 - a thread of its own, not a loop
) -> tuple[Phase, str]:
    """Measure until the analysis has a verdict; return it, and the metrics that decided.

    Args:
        metrics: As they are shipped.
        ask: Evaluates a query; raises ValueError or an error of HTTP if it cannot.
        by: Divides every wait, and every window of a query.
        clock: Seconds.
        sleep: Waits for some seconds.
    """
    phases: dict[str, list[Phase]] = {it.name: [] for it in metrics}
    began = clock()
    while True:
        for it in metrics:
            due = began + (seconds(it.delay) + len(phases[it.name]) * seconds(it.interval)) / by
            if assessed(it, phases[it.name]) is Phase.RUNNING and clock() >= due:
                phases[it.name].append(_measure(it, ask, by))
        now = {it.name: assessed(it, phases[it.name]) for it in metrics}
        verdict = worst(list(now.values()))
        if verdict is not Phase.RUNNING:
            return verdict, ", ".join(name for name, phase in now.items() if phase is verdict)
        sleep(0.05)


def _measure(metric: Metric, ask: Ask, by: float) -> Phase:
    try:
        return measured(metric, ask(compress_expression(metric.query, by)))
    except (ValueError, httpx2.HTTPError):
        return Phase.ERROR


def drill(folder: Path, builds: Sequence[str] = tuple(BUILDS), *, by: float = _BY) -> list[Row]:
    """Try each build; return what became of it.

    Args:
        folder: Where everything is written; must be open to all users.
        builds: Their names.
        by: How much shorter all waits and windows are than those that are shipped.
    """
    weights = weights_of(yaml.safe_load((OVERLAY / "rollout.yaml").read_text()))
    with Site(folder, STABLE, both=False, rate=_RATE, by=by) as site:
        return [_try(site, BUILDS[name], weights, by) for name in builds]


def _try(site: Site, build: Build, weights: Sequence[int], by: float) -> Row:
    template = yaml.safe_load((OVERLAY / "analysis.yaml").read_text())
    stable = site.running["one"]
    known = site.prometheus.versions[f"127.0.0.1:{stable.port}"]
    metrics = metrics_of(template, {"canary-hash": build.version, "stable-hash": known})

    one = site.start(build)
    one.wait_ready()
    site.put("two", one)
    began = site.load.now()
    verdict = Phase.SUCCESSFUL
    decided = ""
    weight = 0
    for weight in weights:
        site.balancer.weigh("one", 100 - weight)
        site.balancer.weigh("two", weight)
        verdict, decided = analyse(metrics, site.ask, by)
        if verdict is not Phase.SUCCESSFUL:
            break
    is_good = verdict is Phase.SUCCESSFUL
    site.balancer.weigh("two" if is_good else "one", 100)
    site.balancer.weigh("one" if is_good else "two", 0)
    ended = site.load.now()
    time.sleep(_AFTER)  # noqa: TID251 - what users get after it
    answers = site.answers(began, ended)
    after = site.answers(ended + 0.1, site.load.now() - 0.5)
    if is_good:  # It is what is stable from now on.
        site.put("one", one)
        site.balancer.weigh("one", 100)
        site.balancer.weigh("two", 0)
    site.stop(stable if is_good else one)
    return Row(build.version, verdict, decided, weight, ended - began, answers, after)


def main(words: Sequence[str]) -> int:
    """Run the drill; return the exit code."""
    parser = drill_parser(__doc__)
    parser.add_argument(
        "--by", type=float, default=_BY, help="divides every wait and window (%(default)g)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=BUILDS, default=list(BUILDS), help="some builds"
    )
    given = parser.parse_args(words)
    if missing := missing_programs():
        sys.stdout.write(f"not run: {', '.join(missing)} is not installed\n")
        return NOT_RUN
    with drill_folder("canary") as folder:
        rows = drill(folder, given.only, by=given.by)
    report = _report(rows, given.by)
    publish(report, given.markdown)
    return 0 if all(row.is_held for row in rows) else 1


def _report(rows: Sequence[Row], by: float) -> str:
    lines = [
        f"| `{row.build}`: {_ABOUT[row.build]} | {_verdict(row)} |"
        f" {row.by if row.build != 'good' else ''} | {row.weight} % | {row.seconds:.0f} s"
        f" ({row.seconds * by / 60:.0f} min) | {sum(row.answers.values())} | {_kinds(row.answers)}"
        f" | {_kinds(row.after)} | {'yes' if row.is_held else '**no**'} |"
        for row in rows
    ]
    return "\n".join(
        (
            "# Canary",
            "",
            (
                "Written by `make drill ONLY=canary`. Five builds of PostFacta are rolled out beside a"
                " stable one by the overlay `canary`:"
            ),
            (
                "its steps, queries, conditions, limits and intervals are read from"
                " `deploy/k8s/overlays/canary` and executed on a real"
            ),
            "Prometheus, while the shipped HAProxy weighs the requests of users, in an open loop.",
            "",
            (
                f"**Every wait, and every window of a query, is divided by {by:g}**; nothing else"
                " is changed, but `leastconn`, which sends a"
            ),
            (
                f"light canary nothing, is `roundrobin`. {_RATE:g} requests a second, one stable"
                " instance and one canary."
            ),
            "",
            (
                "| build | what became of it | decided by | last weight | until the verdict (as"
                " shipped) | requests of users | failed | failed after it | held |"
            ),
            "|---|---|---|---:|---:|---:|---:|---:|---|",
            *lines,
            "",
            (
                "It holds if the good build alone is promoted, without a failed request; if while a"
                " bad one runs no larger share of users' requests"
            ),
            (
                "fails than its weight; and if none fails once it is aborted. A canary without data"
                " is aborted by `samples`."
            ),
            "",
            "What Argo Rollouts does with the verdict was not run: there is no cluster here.",
            "",
            measured_on(),
            "",
        )
    )


def _kinds(answers: Mapping[str, int]) -> str:
    kinds = [f"{error}: {number}" for error, number in answers.items() if error]
    return f"{', '.join(kinds)} ({failed(answers) / sum(answers.values()):.1%})" if kinds else "0"


def _verdict(row: Row) -> str:
    return {Phase.SUCCESSFUL: "promoted", Phase.INCONCLUSIVE: "paused"}.get(row.verdict, "aborted")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
