"""Runs one experiment of Chaos Toolkit as a process, reads from its journal whether it held, and draws how it went."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..engine.page import Series, badge, chart, section, table
from ..engine.values import as_dict
from ..engine.variables import for_an_experiment
from ..verdict import Verdict
from .judging import judge

__all__ = ["VERDICTS", "Experiment", "overview", "run", "section_of"]

VERDICTS = dict(zip(Verdict, ("pass", "deviated", "unknown", "nothing"), strict=True))
"""What each exit code is called here."""

_LONGEST = 600.0  # seconds; what takes longer is stuck
_TIDY_UP = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """How an experiment went."""

    name: str  # its id, such as C03
    title: str  # what it claims
    description: str
    verdict: str  # one of `VERDICTS`
    reasons: Sequence[str]  # what was not met
    probes: Sequence[tuple[str, str, str]]  # each claim, what was found at the end, and if it is tolerated
    users: Mapping[str, Any]  # what the lab stored: users' requests, marks, history
    seconds: float

    def as_json(self) -> dict[str, object]:
        users = {key: value for key, value in self.users.items() if key != "by_second"}
        return {**asdict(self), "seconds": round(self.seconds, 1), "users": users}

    def as_text(self) -> str:
        users = self.users.get("users", {})
        fared = f"{users.get('count', 0)} requests, {users.get('failed', 0)} failed"
        again = f"well again after {self.users.get('recoveries', [])} s"
        return "\n  ".join(
            [f"{self.name}: {self.verdict}; {fared}, {again}; {self.seconds:.0f} s", *self.reasons]
        )


def run(path: Path, folder: Path, *, settings: Mapping[str, str] | None = None) -> Experiment:
    """Run one to its end, with environment variables that its configuration reads; its journal and log go to the folder."""
    name = path.name.partition("-")[0]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.journal.json"
    file.unlink(missing_ok=True)
    command = (
        *(sys.executable, "-m", "chaostoolkit", "--no-version-check"),
        *("--log-file", str(folder / f"{name}.log"), "run"),
        *("--rollback-strategy=always", "--hypothesis-strategy=continuously", "--hypothesis-frequency=1"),
        *("--journal-path", str(file), str(path)),
    )
    environment = for_an_experiment(settings or {})
    began = time.monotonic()
    failure = _execute(command, environment)
    seconds = time.monotonic() - began
    journal = _read(file)
    users = as_dict(journal.get("users"))
    watched = any(control in path.read_text() for control in ("chaos.control", "chaos.lab"))
    own_service = bool({"CHAOS_URL", "CHAOS_COMMAND"} & environment.keys())
    verdict, reasons = judge(journal, users, watched=watched or own_service, failure=failure)
    states, experiment = as_dict(journal.get("steady_states")), as_dict(journal.get("experiment"))
    last = as_dict(states.get("after") or states.get("before"))
    return Experiment(
        name=name,
        title=str(experiment.get("title", path.stem)),
        description=" ".join(str(experiment.get("description", "")).split()),
        verdict=VERDICTS[verdict],
        reasons=reasons,
        probes=[_probe(it) for it in last.get("probes", [])],
        users=users,
        seconds=seconds,
    )


def _execute(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return how it failed; empty if it did not."""
    with subprocess.Popen(  # noqa: S603 - an argument list, no shell
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=_LONGEST)
        except BaseException as error:
            # It owns the service's processes, so it is asked before it is killed: it ends them first.
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_TIDY_UP)
            process.kill()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return f"it did not end within {_LONGEST:g} s"
    return f"exit code {process.returncode}: {output.strip()[-400:]}" if process.returncode else ""


def _probe(it: Mapping[str, Any]) -> tuple[str, str, str]:
    found = it.get("output")
    text = f"{found:.3f}" if isinstance(found, float) else str(found)
    return it["activity"]["name"], text, "met" if it.get("tolerance_met") else "not met"


def _read(path: Path) -> dict[str, Any]:
    try:
        return as_dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def overview(experiments: Sequence[Experiment]) -> str:
    """Show all of them in a table."""
    rows = [
        [it.name, it.title.partition(" ")[2], badge(it.verdict), f"{it.seconds:.0f} s"] for it in experiments
    ]
    return section("Experiments", table(("experiment", "claim", "verdict", "took"), rows))


def section_of(it: Experiment) -> str:
    """Show one: what was done, and how users fared."""
    seconds: Sequence[Sequence[float]] = it.users.get("by_second", ())
    marks: Sequence[Mapping[str, Any]] = it.users.get("marks", ())
    parts = [f"<p>{badge(it.verdict)}</p>"]
    if it.reasons:
        parts.append("<ul>" + "".join(f"<li>{escape(reason)}</li>" for reason in it.reasons) + "</ul>")
    if seconds:
        at = [mark["at"] for mark in marks]
        requests, failed, longest = (
            Series(name, [(second[0], second[column]) for second in seconds])
            for column, name in enumerate(("requests", "failed", "longest wait"), 1)
        )
        parts.append(
            chart([requests, failed], x="seconds; dashed: something was done", y="a second", marks=at)
        )
        parts.append(chart([longest], x="seconds", y="seconds", marks=at))
        done = ", ".join(f"{mark['what']} at {mark['at']:.1f} s" for mark in marks)
        parts.append(f'<p class="soft">{escape(done)}</p>')
    rows = [[name, value, badge(met)] for name, value, met in it.probes]
    parts.append(table(("claim, at the end", "found", "verdict"), rows))
    return section(it.title, *parts, about=it.description)
