"""Sees what there is to see.

Runs commands and tests, each once however many rows rest on it, and reads reports.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from xml.etree import ElementTree as ET

from deploy.prr.judge import (
    Answer,
    Finding,
    Result,
    judge_command,
    judge_report,
    judge_tests,
    worst,
)
from deploy.prr.table import Absent, Command, Proof, Report, Row, Suite, Tier

__all__ = ["WITHIN", "Review", "outcomes"]

WITHIN: Final = {Tier.FAST: 900, Tier.FULL: 10_800, Tier.MANUAL: 10_800}
"""Seconds for all tests of a tier, and for each command."""
_TOO_LATE: Final = 124  # as `timeout` ends
_KEPT: Final = 400


class Review:
    """One review of a checkout.

    Args:
        root: Of the checkout.
        tier: Rows of later tiers run nothing; only their reports are read.
        today: The day that ages are counted to.
    """

    def __init__(self, root: Path, *, tier: Tier, today: date) -> None:
        self._root = root
        self._tier = tier
        self._today = today
        self._commands: dict[str, tuple[int, str, float]] = {}
        self._tests: Mapping[str, Answer] = {}

    def run(self, rows: Sequence[Row]) -> list[Finding]:
        """Answer rows, in their order."""
        proofs = [proof for row in rows if row.tier <= self._tier for proof in row.proofs]
        names = sorted(
            {name for proof in proofs if isinstance(proof, Suite) for name in proof.names}
        )
        commands = {proof.run for proof in proofs if isinstance(proof, Command)}
        with ThreadPoolExecutor(2) as pool:
            tests = pool.submit(self._pytest, names)
            for command, seen in zip(commands, pool.map(self._command, commands), strict=True):
                self._commands[command] = seen
            self._tests = tests.result()
        return [self._finding(row) for row in rows]

    def _finding(self, row: Row) -> Finding:
        answer = worst(self._answer(row, proof) for proof in row.proofs)
        took = [
            self._commands[proof.run][2]
            for proof in row.proofs
            if isinstance(proof, Command) and proof.run in self._commands
        ]
        return Finding(row, answer.result, answer.why, sum(took))

    def _answer(self, row: Row, proof: Proof) -> Answer:
        match proof:
            case Report():
                page = self._root / proof.page
                return judge_report(
                    proof, page.read_text() if page.is_file() else None, self._today
                )
            case Absent():
                return Answer(Result.NOT_RUN, proof.why)
            case _ if row.tier > self._tier:
                return Answer(Result.NOT_RUN, f"of the tier {row.tier.name.lower()}: {proof.shown}")
            case Command():
                return judge_command(*self._commands[proof.run][:2], proof.lines)
            case Suite():
                return judge_tests(proof.names, self._tests)

    def _environment(self) -> Mapping[str, str]:
        # Of the checkout that is reviewed, also if another one is installed.
        path = os.pathsep.join(
            (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))
        )
        return {**os.environ, "PATH": path, "PYTHONPATH": str(self._root / "src")}

    def _command(self, command: str) -> tuple[int, str, float]:
        began = time.monotonic()
        done = self._start(["sh", "-c", command])
        return done.returncode, done.stdout, time.monotonic() - began

    def _pytest(self, names: Sequence[str]) -> Mapping[str, Answer]:
        # One that is gone would end the run of all: what it answers is then not there.
        there = [name for name in names if self._is_there(name)]
        if not there:
            return {}
        with TemporaryDirectory(prefix="postfacta-prr-") as folder:
            report = Path(folder) / "junit.xml"
            options = ["-q", "-m", "", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
            # Of one file, another process would only cost its start.
            shared = (
                ["-n", "2", "--dist", "loadfile"]
                if len({name.partition("::")[0] for name in there}) > 1
                else []
            )
            options += [f"--junitxml={report}", *shared]
            done = self._start([sys.executable, "-m", "pytest", *options, *there])
            if not report.is_file():
                return {name: Answer(Result.FAIL, done.stdout.strip()[-_KEPT:]) for name in there}
            return outcomes(report.read_text())

    def _is_there(self, name: str) -> bool:
        file, _, function = name.partition("::")
        path = self._root / file
        return path.exists() and (not function or f"def {function}(" in path.read_text())

    def _start(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        within = WITHIN[self._tier]
        try:
            return subprocess.run(  # noqa: S603 - the table's own
                words,
                cwd=self._root,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=within,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(
                words, _TOO_LATE, f"it had not ended after {within} s\n"
            )


def outcomes(junit: str) -> dict[str, Answer]:
    """Return the outcome of each test by its id, from the report that pytest writes."""
    found: dict[str, Answer] = {}
    for case in ET.fromstring(junit).iter("testcase"):  # noqa: S314 - our own pytest wrote it
        place = case.get("classname", "")
        name = case.get("name", "")
        # A module that could not be imported, or is skipped whole, stands there as a case without a
        # class.
        test = f"{place.replace('.', '/')}.py::{name}" if place else f"{name.replace('.', '/')}.py"
        wrong = next((part for part in case if part.tag in {"failure", "error", "skipped"}), None)
        if wrong is None:
            found.setdefault(test, Answer(Result.PASS, ""))
            continue
        words = " ".join((wrong.get("message") or wrong.text or "").split())[:_KEPT]
        is_skipped = wrong.tag == "skipped"
        found[test] = Answer(Result.NOT_RUN if is_skipped else Result.FAIL, words)
    return found
