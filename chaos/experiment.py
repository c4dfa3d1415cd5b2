"""Runs one experiment of Chaos Toolkit as a process, and reads from its journal whether it held.

The judge is the exit code, and what the journal says about deviation and rollbacks; never its `status`: an
experiment that deviated is "completed", and a rollback that failed does not change the exit code.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

__all__ = ["EXPERIMENTS", "Experiment", "find", "run"]

EXPERIMENTS = Path(__file__).parent / "experiments"
_LONGEST = 600.0  # seconds; what takes longer is stuck
_TIDY_UP = 120.0
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """How an experiment went.

    Attributes:
        name: Its id, such as ``C03``.
        title: What it claims.
        verdict: ``pass``, ``deviated``, or ``unknown`` if the steady state did not hold at the start.
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
        """Give it as plain data."""
        return {
            "name": self.name,
            "title": self.title,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "probes": [list(probe) for probe in self.probes],
            "seconds": round(self.seconds, 1),
            "users": {key: value for key, value in self.users.items() if key != "by_second"},
        }


def find(wanted: Sequence[str] = ()) -> list[Path]:
    """Find experiments by their ids, all of them without any.

    Raises:
        ValueError: One is not known.
    """
    known = {path.name.partition("-")[0]: path for path in sorted(EXPERIMENTS.glob("*.yaml"))}
    if strangers := [name for name in wanted if name not in known]:
        raise ValueError(
            f"no experiment is called {strangers[0]}: there are {', '.join(known)} and durability"
        )
    return [known[name] for name in wanted] if wanted else list(known.values())


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
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment = {**kept, **(settings or {}), "CHAOS_RESULT": str(result)}
    code, output = _execute(command, environment)
    seconds = time.monotonic() - began
    return _judge(
        name, path, code, output=output, journal=_read(journal), users=_read(result), seconds=seconds
    )


def _execute(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    with subprocess.Popen(  # noqa: S603 - an argument list, no shell
        command,
        cwd=_ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
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
    name: str,
    path: Path,
    code: int,
    *,
    output: str,
    journal: Mapping[str, Any],
    users: Mapping[str, Any],
    seconds: float,
) -> Experiment:
    states: Mapping[str, Any] = journal.get("steady_states", {})
    nothing: Mapping[str, Any] = {}
    before: Mapping[str, Any] = states.get("before") or nothing
    after: Mapping[str, Any] = states.get("after") or nothing
    reasons = _unmet("before", before) + _unmet("after", after)
    reasons += [
        f"{it['activity']['name']}: {_why(it)}"
        for it in journal.get("run", [])
        if it["status"] != "succeeded"
    ]
    reasons += [
        f"rollback, {it['activity']['name']}: {_why(it)}"
        for it in journal.get("rollbacks", [])
        if it["status"] != "succeeded" or it["output"] is False
    ]
    has_lab = "chaos.lab" in path.read_text()
    history = str(users.get("findings_verdict", "not read back" if has_lab else "not asked"))
    if history not in {"pass", "not asked"}:
        reasons.append(f"history: {history}")
    if code and not reasons:
        reasons.append(f"exit code {code}: {output.strip()[-400:]}")
    if not journal or not before.get("steady_state_met"):
        verdict = "unknown"
    else:
        verdict = "deviated" if code or journal["deviated"] or reasons else "pass"
    experiment: Mapping[str, Any] = journal.get("experiment", nothing)
    return Experiment(
        name=name,
        title=str(experiment.get("title", path.stem)),
        description=" ".join(str(experiment.get("description", "")).split()),
        verdict=verdict,
        reasons=reasons,
        probes=[_probe(it) for it in (after or before).get("probes", [])],
        users=users,
        seconds=seconds,
    )


def _probe(it: Mapping[str, Any]) -> tuple[str, str, str]:
    found = it.get("output")
    text = f"{found:.3f}" if isinstance(found, float) else str(found)
    return it["activity"]["name"], text, "met" if it.get("tolerance_met") else "not met"


def _unmet(when: str, state: Mapping[str, Any]) -> list[str]:
    return [
        f"{when}, not so: {it['activity']['name']}: {_why(it)}"
        for it in state.get("probes", [])
        if not it.get("tolerance_met")
    ]


def _why(it: Mapping[str, Any]) -> str:
    if it.get("exception"):
        return str(it["exception"][-1]).strip()
    return f"found {it.get('output')}"


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return cast("Mapping[str, Any]", json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        return {}
