"""Runs one experiment of Chaos Toolkit as a process, and reads from its journal whether it held.

`judging.py` judges by the journal and by what users went through; the exit code of Chaos Toolkit can only make
it worse.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..engine.variables import for_an_experiment
from ..verdict import Verdict
from .judging import judge

__all__ = ["VERDICTS", "Experiment", "run"]

VERDICTS = {
    Verdict.PASS: "pass",
    Verdict.FAIL: "deviated",
    Verdict.INVALID: "unknown",
    Verdict.NOTHING: "nothing",
}
"""What each exit code is called here."""

_LONGEST = 600.0  # seconds; what takes longer is stuck
_TIDY_UP = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """How an experiment went.

    Attributes:
        name: Its id, such as ``C03``.
        title: What it claims.
        verdict: ``pass``, ``deviated``, ``unknown`` or ``nothing``.
        reasons: What was not met.
        probes: Each claim, with what was found at the end, and whether that is within its tolerance.
        users: What the lab stored: users' requests, marks, history.
    """

    name: str
    title: str
    description: str
    verdict: str
    reasons: Sequence[str]
    probes: Sequence[tuple[str, str, str]]
    users: Mapping[str, Any]
    seconds: float

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "title": self.title,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "probes": [list(probe) for probe in self.probes],
            "seconds": round(self.seconds, 1),
            "users": {key: value for key, value in self.users.items() if key != "by_second"},
        }


def run(path: Path, folder: Path, *, settings: Mapping[str, str] | None = None) -> Experiment:
    """Run one to its end.

    Args:
        path: Its YAML.
        folder: Where its journal and log are written; open to all users is not needed.
        settings: Environment variables that its configuration reads.
    """
    name = path.name.partition("-")[0]
    folder.mkdir(parents=True, exist_ok=True)
    journal, result = folder / f"{name}.journal.json", folder / f"{name}.users.json"
    for old in (journal, result):
        old.unlink(missing_ok=True)
    command = (
        *(sys.executable, "-m", "chaostoolkit", "--no-version-check"),
        *("--log-file", str(folder / f"{name}.log"), "run"),
        *("--rollback-strategy=always", "--hypothesis-strategy=continuously", "--hypothesis-frequency=1"),
        *("--journal-path", str(journal), str(path)),
    )
    began = time.monotonic()
    environment = for_an_experiment({**(settings or {}), "CHAOS_RESULT": str(result)})
    code, output = _execute(command, environment)
    seconds = time.monotonic() - began
    return _judge(
        path,
        code,
        output=output,
        journal=_read(journal),
        users=_read(result),
        own_service=bool({"CHAOS_URL", "CHAOS_COMMAND"} & environment.keys()),
        seconds=seconds,
    )


def _execute(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
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
            return 124, f"it did not end within {_LONGEST:g} s"
    return process.returncode, output


def _judge(
    path: Path,
    code: int,
    *,
    output: str,
    journal: Mapping[str, Any],
    users: Mapping[str, Any],
    own_service: bool,
    seconds: float,
) -> Experiment:
    watched = any(control in path.read_text() for control in ("chaos.control", "chaos.lab"))
    found = judge(journal, users, watched=watched or own_service)
    if own_service and not watched:
        found.nothing = (
            "no user was watched: the experiment must name postfacta_lab.chaos.control under `controls`"
        )
    history = str(users.get("findings_verdict", "not read back" if watched else "not asked"))
    if history not in {"pass", "not asked"} and not found.nothing:
        found.broken.append(f"history: {history}")
    if code and not found.reasons:
        found.broken.append(f"exit code {code}: {output.strip()[-400:]}")
    if not journal:
        found.flaws.append(f"it did not run, exit code {code}: {output.strip()[-400:]}")
    states: Mapping[str, Any] = journal.get("steady_states") or {}
    nothing: Mapping[str, Any] = {}
    last: Mapping[str, Any] = states.get("after") or states.get("before") or nothing
    experiment: Mapping[str, Any] = journal.get("experiment", nothing)
    return Experiment(
        name=path.name.partition("-")[0],
        title=str(experiment.get("title", path.stem)),
        description=" ".join(str(experiment.get("description", "")).split()),
        verdict=VERDICTS[found.verdict],
        reasons=found.reasons,
        probes=[_probe(it) for it in last.get("probes", [])],
        users=users,
        seconds=seconds,
    )


def _probe(it: Mapping[str, Any]) -> tuple[str, str, str]:
    found = it.get("output")
    text = f"{found:.3f}" if isinstance(found, float) else str(found)
    return it["activity"]["name"], text, "met" if it.get("tolerance_met") else "not met"


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return cast("Mapping[str, Any]", json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        return {}
