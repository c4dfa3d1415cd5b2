"""Write the dashboards and the alerts of a service on `postfacta_core`, for Grafana and Prometheus.

    python deploy/grafana/generate.py  # PostFacta's own dashboards, into this folder
    python deploy/grafana/generate.py --service billing --out DIR --rules billing.alerts.yml
    python deploy/grafana/generate.py --service billing --job payments --runbooks
    https://wiki.example.org/runbooks

The dashboard of the objectives is not among them: it follows from the OpenSLO file, and `postfacta
slo generate` writes it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# It is started by its path from anywhere, and its modules are no part of an installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.grafana import business, database, overview, resilience, runtime
from deploy.grafana.alerts import alerts_of
from deploy.grafana.queries import variables
from deploy.grafana.runbooks import linked
from postfacta_slo.grafana.boards import Board, Row, Variable, render
from postfacta_slo.promise import model

__all__ = ["OURS", "Service", "boards", "main", "write"]

OURS: Final = "postfacta"
"""The service that has business, and a runbook for each alert, of its own to show here."""

_HERE: Final = Path(__file__).parent / "dashboards"
# A placeholder, as in the receivers of Alertmanager: give the place where your copy of
# docs/runbooks can be read.
_RUNBOOKS: Final = "https://git.example.org/postfacta/src/main/docs/runbooks"
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,26}[a-z0-9])?")
_TRAFFIC: Final = Variable(
    name="traffic", label="Traffic", choices=("user", "synthetic", "load"), default="user"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Whose dashboards they are.

    Attributes:
        name: Begins each `uid`, and is the label `service` of its objectives; 1 to 28 of `a-z`,
            `0-9` and `-`.
        job: What Prometheus calls it.
        runbooks: The address of its runbooks, if it has some.
    """

    name: str
    job: str
    runbooks: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"{self.name!r} is no name for a service: write 1 to 28 of a-z, 0-9 and -"
            )
        if not self.job or re.search(r'["\\\n$]', self.job):
            raise ValueError(f"{self.job!r} is no job of Prometheus: write what `job_name` says")
        if self.runbooks and not re.match(r"https?://", self.runbooks):
            raise ValueError(f"{self.runbooks!r} is no address: write https://...")


@dataclass(frozen=True, slots=True)
class _Kind:
    title: str
    description: str
    rows: Callable[[], list[Row]]
    variables: Sequence[Variable] = ()


_KINDS: Final = {
    "overview": _Kind(
        "Overview",
        "How the service is doing, and where to look next.",
        overview.rows,
        (
            Variable(
                name="service", label="Service", query="label_values(slo:objective:ratio, service)"
            ),
            _TRAFFIC,
        ),
    ),
    "database": _Kind(
        "Database",
        "PostgreSQL: statements, the pool, and the server itself if its exporter is scraped.",
        database.rows,
        (database.VARIABLE,),
    ),
    "resilience": _Kind(
        "Resilience", "What each breaker, retry, bulkhead and limit does.", resilience.rows
    ),
    "runtime": _Kind("Runtime", "The process: memory, CPU, the event loop, crashes.", runtime.rows),
    "business": _Kind(
        "Business", "Incidents, how long they take, and who signs in.", business.rows
    ),
}


def boards(service: Service) -> list[Board]:
    """Return all dashboards of a service; `business` is there for PostFacta alone."""
    return [
        _board(service, name, kind)
        for name, kind in _KINDS.items()
        if name != "business" or service.name == OURS
    ]


def write(service: Service, folder: Path) -> list[Path]:
    """Write a file for each dashboard, and return them; the same service gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for board in boards(service):
        file = folder / f"{board.uid}.gen.json"
        file.write_text(
            json.dumps(render(board), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        written.append(file)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and write; return 0, or 2 with a sentence about what is wrong."""
    parser = argparse.ArgumentParser(
        prog="generate.py", description="Write Grafana dashboards of a service."
    )
    parser.add_argument("--service", default=OURS, help="its name; default: %(default)s")
    parser.add_argument("--job", help="what Prometheus calls it; default: the name")
    parser.add_argument(
        "--out", type=Path, default=_HERE, help="the folder to write to; default: %(default)s"
    )
    parser.add_argument(
        "--runbooks", help="the address of its runbooks; none by default, a placeholder for ours"
    )
    parser.add_argument("--rules", type=Path, help="also write its alerts, to this file")
    given = parser.parse_args(arguments)
    try:
        runbooks = given.runbooks or (_RUNBOOKS if given.service == OURS else "")
        service = Service(
            name=given.service, job=given.job or given.service, runbooks=runbooks.rstrip("/")
        )
        written = write(service, given.out)
        if given.rules:
            given.rules.write_text(alerts_of(_promising(service)), encoding="utf-8")
            written.append(given.rules)
    except (OSError, ValueError) as error:
        print(f"generate.py: {error}", file=sys.stderr)  # noqa: T201 - a command
        return 2
    for file in written:
        print(file)  # noqa: T201 - what a command prints can be piped on
    return 0


def _promising(service: Service) -> model.Service:
    runbooks = f"{service.runbooks}/{{alert}}" if service.runbooks else ""
    return model.Service(name=service.name, job=service.job, runbook_url=runbooks)


def _board(service: Service, name: str, kind: _Kind) -> Board:
    own = [
        (
            Variable(name="service", label=one.label, query=one.query, default=service.name)
            if one.name == "service"
            else one
        )
        for one in kind.variables
    ]
    ours = service.name == OURS
    return Board(
        uid=f"{service.name}-{name}",
        title=f"{'PostFacta' if ours else service.name}: {kind.title}",
        description=kind.description,
        tags=(service.name, "generated"),
        rows=linked(kind.rows(), service.runbooks) if ours else kind.rows(),
        variables=[*variables(service.job), *own],
        links=[("Runbooks", service.runbooks)] if service.runbooks else [],
        events=overview.EVENTS[: 2 if any(one.name == "service" for one in own) else 1],
    )


if __name__ == "__main__":
    sys.exit(main())
