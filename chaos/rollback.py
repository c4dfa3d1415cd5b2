"""Deploy four bad builds under load, have each noticed and rolled back by itself, and look at what users felt.

    python -m chaos.rollback [--by 15] [--only slow] [--markdown FILE]

Two instances stand behind the HAProxy that is shipped. Each is replaced as Kubernetes does it: the
new one is ready before it gets requests, and the old one drains. Each build is for one trigger of a
rollback: it does not become ready, its smoke test fails, the analysis of the canary fails, or the
alert on the error budget fires, both of a real Prometheus. Exit codes: 0 all held, 1 something did
not, 77 a program is not installed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx2
import yaml

from chaos.canary import OVERLAY, analyse, failed
from chaos.delivery import SLOTS, Build, Site, measured_on, missing_programs
from chaos.gameday.site import write_rules
from chaos.together import drill_folder, drill_parser, publish
from deploy.canary.analysis import Phase, metrics_of
from deploy.ledger import Entry, append, previous, read, send, signal
from deploy.outcome import NOT_RUN
from postfacta_lab.engine.processes import wait_until

__all__ = ["BUILDS", "Row", "drill", "main"]

_BY = 15
_RATE = 30.0
_READY = 30.0  # seconds in which a build must be ready
_PATIENCE = 120.0
_GOAL = 300.0  # seconds
_WHERE = "drill"
GOOD: Final = Build("1.0")
BUILDS: Final[Mapping[str, tuple[Build, str, str]]] = {
    "unready": (
        Build("1.1", "unready"),
        "readiness",
        "needs tables that the database does not have",
    ),
    "bare": (Build("1.2", "bare"), "smoke test", "has no security headers"),
    "slow": (Build("1.3", "slow"), "analysis: latency-p95", "each request takes 700 ms longer"),
    "errors": (
        Build("1.4", "errors"),
        "alert: PostfactaErrorBudgetBurn",
        "each fifth request is a 500",
    ),
}
"""The builds by name: itself, what must trigger the rollback, and what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """How a bad build was undone.

    Attributes:
        build: Its name.
        trigger: What began the rollback; empty if nothing did.
        noticed: Seconds from the start of the deployment to the trigger.
        seconds: From the trigger until the former version served alone, and the smoke test had
            passed.
        answers: What users got, from the start of the deployment to two seconds after all, by
            error; `` for none.
        smoked: Whether the smoke test passed on every instance.
    """

    build: str
    trigger: str
    noticed: float
    seconds: float
    answers: Mapping[str, int]
    smoked: bool

    @property
    def requests(self) -> int:
        """How many there were."""
        return sum(self.answers.values())

    @property
    def own(self) -> int:
        """How many failed by the fault of the build."""
        return self.answers.get("500", 0) if self.build == "errors" else 0

    @property
    def lost(self) -> int:
        """How many failed otherwise: by the deployment or the rollback."""
        return failed(self.answers) - self.own

    @property
    def is_held(self) -> bool:
        """Whether the right thing noticed it, and going back was quick and cost no request."""
        quick = self.seconds < _GOAL and self.requests > 0
        return self.trigger == BUILDS[self.build][1] and quick and not self.lost and self.smoked


class _Pipeline:
    """Deploys and rolls back, and keeps the ledger."""

    def __init__(self, site: Site, by: float) -> None:
        self.site = site
        self._by = by
        self.ledger = site.folder / "ledger.jsonl"
        self.sent: list[
            str
        ] = []  # what went wrong with each entry; empty for what was acknowledged
        self._tokens = {
            name: self._token(name, *scopes)
            for name, scopes in {
                "deploys": ("signals:write",),
                "smoke": ("incidents:read", "incidents:write"),
            }.items()
        }

    def _token(self, name: str, *scopes: str) -> Path:
        new = {
            "name": name,
            "scopes": scopes,
            "source": name if "signals:write" in scopes else None,
        }
        mine = {"Authorization": f"Bearer {self.site.stack.token}"}
        answer = httpx2.post(
            f"{self.site.stack.url}/api/v1/tokens", json=new, headers=mine, timeout=10.0
        )
        file = self.site.folder / f"{name}.token"
        file.touch(mode=0o600)
        file.write_text(answer.raise_for_status().json()["secret"])
        return file

    def record(self, kind: str, what: str, outcome: str, seconds: float, note: str = "") -> None:
        """Add to the ledger, and send it to PostFacta."""
        now = datetime.now(UTC)  # noqa: TID251 - of a ledger
        entry = Entry(
            at=f"{now:%Y-%m-%dT%H:%M:%S.%f}Z",
            kind=kind,
            what=what,
            environment=_WHERE,
            by="drill",
            outcome=outcome,
            seconds=round(seconds, 1),
            note=note,
        )
        append(self.ledger, entry)
        self.sent.append(
            send(self.site.balancer.url, self._tokens["deploys"], signal(entry, "postfacta"))
        )

    def deploy(self, build: Build) -> str:
        """Roll a build out until something is wrong; return what."""
        for slot in SLOTS:
            one = self.site.start(build)
            with suppress(TimeoutError):
                one.wait_ready(_READY)
            if not one.is_ready():
                self.site.stop(one)
                return "readiness"
            former = self.site.running[slot]
            self.site.put(slot, one)
            self.site.stop(former)
            # A build is looked at by the one trigger that it is for: others might be quicker.
            if build.fault == "bare" and self._smoke(one.url, build.version):
                return "smoke test"
            if build.fault == "slow" and (found := self._analyse(build)):
                return f"analysis: {found}"
        with suppress(TimeoutError):
            wait_until(self._burns, "an alert", within=_PATIENCE, every=0.2)
        return "alert: PostfactaErrorBudgetBurn" if self._burns() else ""

    def _analyse(self, build: Build) -> str:
        template = yaml.safe_load((OVERLAY / "analysis.yaml").read_text())
        metrics = metrics_of(template, {"canary-hash": build.version, "stable-hash": GOOD.version})
        verdict, found = analyse(metrics, self.site.ask, self._by)
        return "" if verdict is Phase.SUCCESSFUL else found

    def _burns(self) -> bool:
        wanted = {
            "alertname": "PostfactaErrorBudgetBurn",
            "slo": "success-rate",
            "severity": "page",
        }
        return any(
            alert["state"] == "firing" and wanted.items() <= alert["labels"].items()
            for alert in self.site.prometheus.alerts()
        )

    def roll_back(self, build: Build) -> None:
        """Put the version before in place of a build."""
        version = previous(read(self.ledger), _WHERE)
        if version != GOOD.version:
            raise RuntimeError(f"the ledger names {version}")
        for slot in SLOTS:
            bad = self.site.running[slot]
            if not bad.name.startswith(build.version):
                continue
            one = self.site.start(GOOD)
            one.wait_ready()
            self.site.put(slot, one)
            self.site.stop(bad)

    def smokes(self) -> bool:
        """Whether every instance passes the smoke test, in the former version."""
        return all(self._smoke(one.url, GOOD.version) == 0 for one in self.site.running.values())

    def _smoke(self, url: str, version: str) -> int:
        words = [
            "smoke",
            "--url",
            url,
            "--token-file",
            str(self._tokens["smoke"]),
            "--expect-version",
            version,
        ]
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-m", "postfacta_app", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode

    def known(self) -> int:
        """Return how many changes PostFacta itself knows."""
        mine = {"Authorization": f"Bearer {self.site.stack.token}"}
        answer = httpx2.get(
            f"{self.site.balancer.url}/api/v1/signals?service=postfacta", headers=mine, timeout=10.0
        )
        return len(answer.raise_for_status().json()["items"])


def drill(
    folder: Path, builds: Sequence[str] = tuple(BUILDS), *, by: int = _BY
) -> tuple[list[Row], int, int, int]:
    """Deploy each build and undo it.

    Return what was seen, and the entries of the ledger: all, acknowledged, and known.

    Each entry is sent to PostFacta once, also through a build that fails, so one may not be
    acknowledged.

    Args:
        folder: Where everything is written; must be open to all users.
        builds: Their names.
        by: How much shorter the waits of alerts and of the analysis are.
    """
    rules = write_rules(folder / "rules", by) if "errors" in builds else ()
    with Site(folder, GOOD, both=True, rate=_RATE, by=by, rules=rules) as site:
        pipeline = _Pipeline(site, by)
        pipeline.record("deploy", GOOD.version, "succeeded", 0.0)
        rows = [_rehearse(pipeline, name) for name in builds]
        return rows, len(read(pipeline.ledger)), pipeline.sent.count(""), pipeline.known()


def _rehearse(pipeline: _Pipeline, name: str) -> Row:
    site = pipeline.site
    build = BUILDS[name][0]
    began = site.load.now()
    trigger = pipeline.deploy(build)
    triggered = site.load.now()
    pipeline.record("deploy", build.version, "failed", triggered - began, trigger)
    pipeline.roll_back(build)
    smoked = pipeline.smokes()
    ended = site.load.now()
    pipeline.record("rollback", GOOD.version, "succeeded", ended - triggered, trigger)
    time.sleep(2.5)  # noqa: TID251 - what users get after it
    return Row(
        build=name,
        trigger=trigger,
        noticed=triggered - began,
        seconds=ended - triggered,
        answers=site.answers(began, site.load.now() - 0.5),
        smoked=smoked,
    )


def main(words: Sequence[str]) -> int:
    """Run the drill; return the exit code."""
    parser = drill_parser(__doc__)
    parser.add_argument(
        "--by", type=int, default=_BY, help="divides the waits of alerts and analysis (%(default)d)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=BUILDS, default=list(BUILDS), help="some builds"
    )
    given = parser.parse_args(words)
    if missing := missing_programs():
        sys.stdout.write(f"not run: {', '.join(missing)} is not installed\n")
        return NOT_RUN
    with drill_folder("rollback") as folder:
        rows, recorded, acknowledged, known = drill(folder, given.only, by=given.by)
    for row in rows:
        sys.stderr.write(f"{row.build}: {dict(row.answers)}\n")
    report = _report(rows, recorded, known, given.by)
    publish(report, given.markdown)
    return 0 if all(row.is_held for row in rows) and acknowledged <= known else 1


def _report(rows: Sequence[Row], recorded: int, known: int, by: float) -> str:
    lines = [
        f"| `{row.build}`: {BUILDS[row.build][2]} | {row.trigger or '**nothing**'} |"
        f" {row.noticed:.0f} s | {row.seconds:.1f} s | {row.requests} | {row.own} | {row.lost} |"
        f" {'passed' if row.smoked else '**failed**'} | {'yes' if row.is_held else '**no**'} |"
        for row in rows
    ]
    requests = sum(row.requests for row in rows)
    lost = sum(row.lost for row in rows)
    return "\n".join(
        (
            "# Rollback",
            "",
            (
                "Written by `make drill ONLY=rollback`: a bad build of PostFacta is deployed behind the"
                " shipped HAProxy, while users read"
            ),
            (
                f"({_RATE:g} requests a second in an open loop), and is undone without a person."
                " Each of two instances is replaced as"
            ),
            (
                "Kubernetes does it: the new one is ready before it gets requests, and the old one"
                " drains."
            ),
            "",
            (
                f"**{requests} requests, {lost} failed by a deployment or a rollback.** The goals:"
                f" 0, and less than {_GOAL:g} s."
            ),
            "",
            (
                "| build | what triggered the rollback | after | time to roll back | requests |"
                " failed by the build | failed by the roll | smoke test | held |"
            ),
            "|---|---|---:|---:|---:|---:|---:|---|---|",
            *lines,
            "",
            (
                "The time to roll back is a real one: from the trigger until the former version"
                " serves alone, its instances started and the bad"
            ),
            (
                "ones drained, and `postfacta smoke` has passed on each. The waits of alerts and"
                f" of the analysis are divided by {by:g}, so *after* is no"
            ),
            (
                "[detection time](detection-times.md); a build is given up if it is not ready"
                f" within {_READY:g} s. The version to go back to is that of the"
            ),
            (
                f"[ledger](../how-to/deploy-and-roll-back.md#keep-a-ledger), which holds {recorded}"
                f" entries; PostFacta knows {known} of them as signals. The database"
            ),
            "is not rolled back.",
            "",
            "That Kubernetes and Argo Rollouts do the same was not run: there is no cluster here.",
            "",
            measured_on(),
            "",
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
