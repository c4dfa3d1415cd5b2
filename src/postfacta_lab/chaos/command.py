"""The command `postfacta lab chaos`.

Runs experiments of Chaos Toolkit, each a process, and reports.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import takewhile
from pathlib import Path
from typing import Any

import click

from ..drain.stop import command_line
from ..engine.page import badge, chart, machine, page, section, table
from ..engine.values import Fields, as_dict
from ..engine.variables import Environment, for_an_experiment
from ..load.mix import read_mix
from ..verdict import Verdict, overall
from .judging import judge

VERDICTS = dict(zip(Verdict, ("pass", "deviated", "unknown", "nothing"), strict=True))
"""What each exit code is called here."""

_LONGEST = 600.0  # seconds; what takes longer is stuck
_TIDY_UP = 120.0  # seconds that it has for its rollbacks, once it is interrupted
_SUFFIXES = {".yaml", ".yml", ".json"}


@click.command(
    "chaos",
    epilog=(
        "Example: postfacta lab chaos restart.yaml --path /invoices/7 -- uvicorn billing:app --port"
        " {port}"
    ),
)
@click.argument("words", nargs=-1, required=True, metavar="FILE... [-- COMMAND...]")
@click.option("--url", help="A service that runs already, instead of a command that starts one.")
@click.option(
    "--path",
    "paths",
    multiple=True,
    required=True,
    help="Asked for by GET; may be repeated.",
)
@click.option("--out", type=Path, default=Path("build/chaos"), show_default=True)
def command(
    *,
    words: tuple[str, ...],
    url: str | None,
    paths: tuple[str, ...],
    out: Path,
) -> Verdict:
    """Run experiments of Chaos Toolkit on a service under load, and judge what users went through.

    Chaos Toolkit's own verdict can only make ours worse. CHAOS_TOKEN is sent as a bearer token. It
    writes result.json and report.html.
    """
    names = takewhile(lambda word: Path(word).suffix in _SUFFIXES, words)
    files = [Path(name) for name in names]
    settings = _settings(files, words[len(files) :], url=url, paths=paths)
    out.mkdir(parents=True, exist_ok=True)
    experiments: list[Experiment] = []
    for file in files:
        click.echo(f"{file.stem}: running")
        experiment = run(file.absolute(), out, settings=settings)
        experiments.append(experiment)
        click.echo(experiment.as_text())
    codes = {name: code for code, name in VERDICTS.items()}
    code = overall(codes[experiment.verdict] for experiment in experiments)
    verdict = VERDICTS[code]
    result = {
        "verdict": verdict,
        "exit_code": int(code),
        "machine": machine(),
        "experiments": [experiment.as_json() for experiment in experiments],
    }
    document = json.dumps(result, indent=1)
    (out / "result.json").write_text(document + "\n")
    sections = [overview(experiments), *map(section_of, experiments)]
    report = out / "report.html"
    report.write_text(page("Chaos", verdict, sections))
    click.echo(f"{verdict}; report: {report}")
    return code


def _settings(
    files: list[Path],
    start: Sequence[str],
    *,
    url: str | None,
    paths: Sequence[str],
) -> dict[str, str]:
    if not files:
        raise ValueError(f"name the file of an experiment (.yaml, .yml, .json), not {start[0]}")
    if missing := [file for file in files if not file.is_file()]:
        raise ValueError(f"there is no file {missing[0]}")
    read_mix(paths, None)  # whether they are paths
    if bool(url) == bool(start):
        raise ValueError("give --url, or a command that starts the service; not both")
    if url and not url.startswith(("http://", "https://")):
        raise ValueError(f"--url must begin with http:// or https://, not {url!r}")
    settings = {"CHAOS_READS": " ".join(paths)}
    if url:
        settings["CHAOS_URL"] = url
    else:
        settings["CHAOS_COMMAND"] = command_line(start)
    return settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """How an experiment went."""

    name: str  # its id, such as C03
    title: str  # what it claims
    description: str
    verdict: str  # one of `VERDICTS`
    reasons: Sequence[str]  # what was not met
    # Each claim, its value at the end, and whether that is tolerated.
    probes: Sequence[tuple[str, str, str]]
    users: Fields  # what the lab stored: users' requests, marks, history
    seconds: float

    def as_json(self) -> dict[str, object]:
        users = {key: value for key, value in self.users.items() if key != "by_second"}
        return {
            **asdict(self),
            "seconds": round(self.seconds, 1),
            "users": users,
        }

    def as_text(self) -> str:
        users = self.users.get("users", {})
        fared = f"{users.get('count', 0)} requests, {users.get('failed', 0)} failed"
        again = f"well again after {self.users.get('recoveries', [])} s"
        head = f"{self.name}: {self.verdict}; {fared}, {again}; {self.seconds:.0f} s"
        return "\n  ".join([head, *self.reasons])


def run(path: Path, folder: Path, *, settings: Environment | None = None) -> Experiment:
    """Run one to its end, with environment variables that its configuration reads.

    Its journal and log go to the folder.
    """
    name = path.name.partition("-")[0]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.journal.json"
    file.unlink(missing_ok=True)
    log = folder / f"{name}.log"
    program = (sys.executable, "-m", "chaostoolkit")
    command = (
        *program,
        "--no-version-check",
        f"--log-file={log}",
        "run",
        "--rollback-strategy=always",
        "--hypothesis-strategy=continuously",
        "--hypothesis-frequency=1",
        f"--journal-path={file}",
        str(path),
    )
    environment = for_an_experiment(settings or {})
    began = time.monotonic()
    failure = _execute(command, environment)
    seconds = time.monotonic() - began
    journal: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):
        journal = as_dict(json.loads(file.read_text()))
    users = as_dict(journal.get("users"))
    text = path.read_text()
    has_control = "chaos.control" in text or "chaos.lab" in text
    own_service = bool({"CHAOS_URL", "CHAOS_COMMAND"} & environment.keys())
    watched = has_control or own_service
    verdict, reasons = judge(journal, users, watched=watched, failure=failure)
    states = as_dict(journal.get("steady_states"))
    experiment = as_dict(journal.get("experiment"))
    description = str(experiment.get("description", ""))
    last = as_dict(states.get("after") or states.get("before"))
    return Experiment(
        name=name,
        title=str(experiment.get("title", path.stem)),
        description=" ".join(description.split()),
        verdict=VERDICTS[verdict],
        reasons=reasons,
        probes=[_probe(probe) for probe in last.get("probes", [])],
        users=users,
        seconds=seconds,
    )


def _execute(command: Sequence[str], environment: Environment) -> str:
    """Return how it failed; empty if it did not."""
    with subprocess.Popen(  # noqa: S603 - an argument list, no shell
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=_LONGEST)
        except BaseException as error:
            # It owns the service's processes, so it is asked before it is killed: it ends them
            # first.
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_TIDY_UP)
            process.kill()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return f"it did not end within {_LONGEST:g} s"
    if not process.returncode:
        return ""
    text = output.strip()[-400:]
    return f"exit code {process.returncode}: {text}"


def _probe(probe: Fields) -> tuple[str, str, str]:
    output = probe.get("output")
    text = f"{output:.3f}" if isinstance(output, float) else str(output)
    tolerance = "met" if probe.get("tolerance_met") else "not met"
    return probe["activity"]["name"], text, tolerance


def overview(experiments: Sequence[Experiment]) -> str:
    head = ("experiment", "claim", "verdict", "took")
    rows = [
        [
            experiment.name,
            experiment.title.partition(" ")[2],
            badge(experiment.verdict),
            f"{experiment.seconds:.0f} s",
        ]
        for experiment in experiments
    ]
    return section("Experiments", table(head, rows))


def section_of(experiment: Experiment) -> str:
    """Return the part of a page that shows an experiment: reasons, plots, claims."""
    seconds: Sequence[Sequence[float]] = experiment.users.get("by_second", ())
    marks: Sequence[Fields] = experiment.users.get("marks", ())
    parts = [f"<p>{badge(experiment.verdict)}</p>"]
    if experiment.reasons:
        reasons = "".join(f"<li>{escape(reason)}</li>" for reason in experiment.reasons)
        parts.append(f"<ul>{reasons}</ul>")
    if seconds:
        at = [mark["at"] for mark in marks]
        requests = [(second, count) for second, count, _, _ in seconds]
        failed = [(second, count) for second, _, count, _ in seconds]
        longest = [(second, wait) for second, _, _, wait in seconds]
        lines = {"requests": requests, "failed": failed}
        parts.append(chart(lines, x="seconds; dashed: something was done", y="a second", marks=at))
        parts.append(chart({"longest wait": longest}, x="seconds", y="seconds", marks=at))
        done = ", ".join(f"{mark['what']} at {mark['at']:.1f} s" for mark in marks)
        parts.append(f'<p class="soft">{escape(done)}</p>')
    rows = [[name, value, badge(met)] for name, value, met in experiment.probes]
    parts.append(table(("claim, at the end", "found", "verdict"), rows))
    return section(experiment.title, *parts, about=experiment.description)
