"""Fetch a peer's suite, run it in a lane, and compare two lanes.

A lane is `plain`, `control` or `ours`: as it is, within a wrapper that does nothing, and with ours.
What fails in a wrapper that does nothing says nothing of ours.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from postfacta_embedded import EmbeddedPostgres
from tests.peers.suites import Suite
from tests.strangers.kit import Environment

ROOT: Final = Path(__file__).parents[2]
PLUGINS: Final = Path(__file__).with_name("plugins")
LISTED: Final = Path(__file__).with_name("differences.toml")
_PINS: Final = ROOT / "requirements/dev.txt"
# A suite that hangs fails by this; the longest takes four minutes on two quiet cores.
_TIMEOUT: Final = 1800.0

Outcomes = Mapping[str, str]
"""The outcome of each test by its id."""


@dataclass(frozen=True)
class Difference:
    """Tests that pass plain and fail with ours, and why that is meant.

    Attributes:
        tests: Patterns of ids.
        reason: In one sentence.
    """

    tests: tuple[str, ...]
    reason: str

    def matches(self, test: str) -> bool:
        """Return whether a test is one of these."""
        # Ids have brackets, which are no classes of characters here.
        return any(fnmatchcase(test, pattern.replace("[", "[[]")) for pattern in self.tests)


@dataclass(frozen=True)
class Comparison:
    """What two lanes of a suite gave.

    Attributes:
        suite: Its name.
        version: Of the package.
        plain: The outcomes as it is.
        ours: Those with ours.
        differing: The tests that pass plain, pass in a wrapper that does nothing, and fail with
            ours, each time.
    """

    suite: str
    version: str
    plain: Outcomes
    ours: Outcomes
    differing: Collection[str]

    def unlisted(self, listed: Sequence[Difference]) -> list[str]:
        """Return the differences that no reason is listed for."""
        return [test for test in self.differing if not any(entry.matches(test) for entry in listed)]

    def healed(self, listed: Sequence[Difference]) -> list[str]:
        """Return the listed patterns whose tests ran and of which none differs."""
        return [
            pattern
            for entry in listed
            for pattern in entry.tests
            if any(Difference((pattern,), "").matches(test) for test in self.plain)
            and not any(Difference((pattern,), "").matches(test) for test in self.differing)
        ]


def differences(suite: str) -> list[Difference]:
    """Read the list of a suite."""
    entries = tomllib.loads(LISTED.read_text(encoding="utf-8")).get(suite, [])
    return [Difference(tuple(entry["tests"]), entry["reason"]) for entry in entries]


def pinned(package: str) -> tuple[str, str]:
    """Return the version of a package that this checkout pins, and its lines with all hashes."""
    found = re.search(
        rf"^{re.escape(package)}==(\S+) \\\n((?:    --hash=\S+(?: \\)?\n)+)",
        _PINS.read_text(),
        re.MULTILINE,
    )
    assert found is not None, f"{_PINS} does not pin {package}"
    return found[1], found[0]


def fetch(package: str, folder: Path) -> Path:
    """Download the source package that this checkout pins, checked by its hash, and unpack it.

    Raises:
        AssertionError: If it cannot be had.
    """
    version, lines = pinned(package)
    requirement = folder / "requirement.txt"
    requirement.write_text(lines)
    options = [
        "-q",
        "--disable-pip-version-check",
        "--no-deps",
        "--require-hashes",
        "--no-binary",
        package,
    ]
    done = subprocess.run(  # noqa: S603 - pip of our environment
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            *options,
            "-r",
            str(requirement),
            "-d",
            str(folder),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (source,) = folder.glob(f"*-{version}")
    return source


@contextmanager
def with_servers(suite: Suite, folder: Path) -> Generator[Suite]:
    """Give a suite what it needs besides: a PostgreSQL of its own."""
    if suite.package != "psycopg-pool":
        yield suite
        return
    with EmbeddedPostgres(folder / "data") as server:
        yield replace(suite, options=(*suite.options, f"--test-dsn={server.dsn()}"))


def run(
    suite: Suite,
    lane: str,
    tests: Sequence[str],
    *,
    environment: Environment,
    source: Path,
    report: Path,
) -> Outcomes:
    """Run tests of a suite in a lane; the outcomes are all that counts, not the exit code.

    Raises:
        AssertionError: If nothing was run.
    """
    own_output = report.with_suffix(".log")
    # What the suite starts finds the programs of its environment.
    path = f"{environment.program('python').parent}:{os.environ['PATH']}"
    variables = {
        "PEER_LANE": lane,
        "PEER_REPORT": str(report),
        "PYTHONPATH": str(PLUGINS),
        "PATH": path,
    }
    plugins = ["-o", f"cache_dir={report.parent}", "-p", "peer_report", "-p", suite.plugin]
    done = environment.run(
        *("python", "-m", "pytest", "-q", "--tb=short", *plugins, *suite.options, *tests),
        cwd=source,
        environment=variables,
        timeout=_TIMEOUT,
    )
    own_output.write_text(done.stdout + done.stderr)
    assert report.exists(), done.stdout + done.stderr
    outcomes = dict(json.loads(line) for line in report.read_text().splitlines())
    assert outcomes, done.stdout + done.stderr
    return outcomes


def compare(
    suite: Suite,
    tests: Sequence[str],
    listed: Sequence[Difference],
    *,
    environment: Environment,
    source: Path,
    folder: Path,
) -> Comparison:
    """Run tests of a suite plain and with ours, and name what differs.

    What differs without being listed is run again in all three lanes: a test that a busy machine
    fails in one of them is no difference.
    """

    def outcomes(lane: str, chosen: Sequence[str], turn: str) -> Outcomes:
        report = folder / f"{suite.plugin}-{lane}-{turn}.jsonl"
        return run(suite, lane, chosen, environment=environment, source=source, report=report)

    plain, ours = outcomes("plain", tests, "all"), outcomes("ours", tests, "all")
    differing = [
        test
        for test, outcome in plain.items()
        if outcome == "passed" and ours.get(test) != "passed"
    ]
    doubtful = [test for test in differing if not any(entry.matches(test) for entry in listed)]
    if doubtful:
        again = {lane: outcomes(lane, doubtful, "again") for lane in ("plain", "control", "ours")}
        passed = ("passed", "passed")
        confirmed = {
            test
            for test in doubtful
            if (again["plain"].get(test), again["control"].get(test)) == passed
            and again["ours"].get(test) != "passed"
        }
        differing = [test for test in differing if test not in doubtful or test in confirmed]
    version = pinned(suite.package)[0]
    return Comparison(suite.name, version, plain, ours, differing)
