"""The record of what is evidence: when each long test ran, where, at which commit, and how it ended.

`python -m pytest -p tests.kit.proofs --proofs` writes a row after each test, so that an interrupted
run loses nothing, and leaves out what is fresh: what passed, and can reach no file that differs
since. So the next run goes on.

    python -m tests.kit.proofs          how many long tests are fresh, stale, failed or never ran
    python -m tests.kit.proofs stale    and which, since when, by which files

A proof that is stale is said here, and fails nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import json
import os
import platform
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Mapping
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from tests.kit.graph import Graph
from tests.kit.reach import chosen, differing, graph_of

__all__ = ["RECORD", "Collected", "Proof", "collect", "keep", "read", "report", "since", "state"]

ROOT: Final = Path(__file__).parents[2]
RECORD: Final = "tests/proofs.jsonl"
STATES: Final = ("failed", "never run", "stale", "skipped", "fresh")
_NAMED: Final = 3  # Files of which a line names the changed ones.


@dataclass(frozen=True, slots=True)
class Proof:
    """How a test ended when it last ran.

    Attributes:
        test: Its id, and the profile of Hypothesis if that is another than by day.
        at: The time in UTC when it ended.
        commit: What was checked out; with `+` if files differed from it.
        machine: Its cores, memory, and the Python.
        outcome: `passed`, `failed` or `skipped`.
        seconds: How long it took, with its fixtures.
    """

    test: str
    at: str
    commit: str
    machine: str
    outcome: str
    seconds: float

    @property
    def file(self) -> str:
        """Return the path of its module."""
        return self.test.partition("::")[0]


def read(record: Path) -> dict[str, Proof]:
    """Return the rows of a record by test; none if there is no such file."""
    if not record.exists():
        return {}
    lines = record.read_text(encoding="utf-8").splitlines()
    proofs = [Proof(**json.loads(line)) for line in lines]
    return {proof.test: proof for proof in proofs}


def keep(record: Path, proof: Proof) -> None:
    """Put a row into a record in the place of the test's last; whole, whenever it is interrupted."""
    with _locked(record.parent):
        rows = read(record) | {proof.test: proof}
        text = "".join(f"{json.dumps(asdict(rows[test]))}\n" for test in sorted(rows))
        new = record.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(record)


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Keep out other runs of the same checkout."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def since(root: Path, proofs: Iterable[Proof]) -> dict[str, list[str]]:
    """Return by test which files differ since it ran, of those that can reach it."""
    by_commit: defaultdict[str, list[Proof]] = defaultdict(list)
    for proof in proofs:
        by_commit[_base(root, proof)].append(proof)
    differences = {
        commit: [change for change in differing(root, commit) if change.path != RECORD]
        for commit in by_commit
    }
    changes = {change for found in differences.values() for change in found}
    graph = graph_of(root, changes) if changes else Graph({}, {})
    reached = {change: chosen(graph, [change])[change.path] for change in changes}
    return {
        proof.test: [change.path for change in differences[commit] if proof.file in reached[change]]
        for commit, group in by_commit.items()
        for proof in group
    }


def _base(root: Path, proof: Proof) -> str:
    """Return the commit of a proof; if it is not in this clone, the last one before that time."""
    commit = proof.commit.removesuffix("+")
    if _git(root, "rev-parse", "--quiet", "--verify", f"{commit}^{{commit}}"):
        return commit
    before = _git(root, "rev-list", "-1", f"--before={proof.at}", "HEAD")
    return before or _git(root, "rev-list", "--max-parents=0", "HEAD").splitlines()[-1]


def _git(root: Path, *words: str) -> str:
    """Return what git says; nothing if it cannot."""
    command = ["git", *words]
    done = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)  # noqa: S603 - our own words
    return done.stdout.strip()


def state(proof: Proof | None, changed: Mapping[str, list[str]]) -> str:
    """Return which of `STATES` a test is in."""
    if proof is None:
        return "never run"
    if proof.outcome != "passed":
        return proof.outcome
    return "stale" if changed.get(proof.test) else "fresh"


def report(
    tests: Iterable[str], proofs: Mapping[str, Proof], changed: Mapping[str, list[str]]
) -> tuple[str, list[str]]:
    """Return a line of numbers, and a line for each function and state that is not fresh."""
    groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    states: Counter[str] = Counter()
    for test in tests:
        now = state(proofs.get(test), changed)
        states[now] += 1
        groups[now, test.partition("[")[0]].append(test)
    numbers = ", ".join(f"{states[name]} {name}" for name in STATES if states[name])
    lines = [
        f"{now}: {function}{_because(group, proofs, changed)}"
        for (now, function), group in sorted(groups.items(), key=_by_state)
        if now != "fresh"
    ]
    return f"{states.total()} long tests: {numbers}", lines


def _by_state(group: tuple[tuple[str, str], list[str]]) -> tuple[int, str]:
    (name, function), _ = group
    return STATES.index(name), function


def _because(
    tests: list[str], proofs: Mapping[str, Proof], changed: Mapping[str, list[str]]
) -> str:
    cases = f", {len(tests)} cases" if len(tests) > 1 else ""
    last = [proofs[test] for test in tests if test in proofs]
    if not last:
        return cases
    oldest = min(last, key=lambda proof: proof.at)
    files = sorted({path for test in tests for path in changed.get(test, ())})
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    by = f"; since then changed: {', '.join(files[:_NAMED])}{more}" if files else ""
    return f"{cases}, {oldest.at} at {oldest.commit}{by}"


class Collected:
    """The ids of all tests, which pytest collects and does not run."""

    def __init__(self) -> None:
        self.tests: list[str] = []
        self.long: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count a module that was skipped whole, for want of a package, as a test that no job ran."""
        if report.skipped:
            self.tests.append(report.nodeid)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Sort the tests by whether they are long."""
        for item in session.items:
            (self.long if item.get_closest_marker("long") else self.tests).append(item.nodeid)


def collect() -> Collected:
    """Return all tests of this checkout."""
    found, output = Collected(), io.StringIO()
    with chdir(ROOT), redirect_stdout(output):
        code = pytest.main(["--collect-only", "-q", "-m", ""], plugins=[found])
    if code:
        raise RuntimeError(f"pytest collects nothing:\n{output.getvalue()}")
    return found


def main(argv: list[str] | None = None) -> int:
    """Print the report; return 0, whatever is stale."""
    parser = argparse.ArgumentParser(
        "python -m tests.kit.proofs", description="Say which proofs are fresh."
    )
    parser.add_argument("list", nargs="?", choices=["stale"], help="list all that are not fresh")
    options = parser.parse_args(argv)
    proofs = read(ROOT / RECORD)
    numbers, lines = report(collect().long, proofs, since(ROOT, proofs.values()))
    # Not before: the packages are imported after the clock of the tests, and pytest rewrites anyio.
    from tests.kit.due import overdue  # noqa: PLC0415

    due = [f"overdue: {line}" for line in overdue(datetime.now(UTC).date())]  # noqa: TID251 - as of today
    print(numbers, *(lines if options.list else ()), *due, sep="\n")  # noqa: T201 - its job
    return 0


# What follows is a plugin of pytest.


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option by which `make proofs` records what it runs."""
    parser.addoption(
        "--proofs",
        action="store_true",
        help=f"record each test in {RECORD}, and leave out those that are fresh",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Record in the process that reports."""
    if config.getoption("proofs") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(config), "proofs-recorder")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is fresh."""
    if not config.getoption("proofs"):
        return
    rows = read(config.rootpath / RECORD)
    of = {item.nodeid: rows.get(named(config, item.nodeid)) for item in items}
    changed = since(config.rootpath, filter(None, of.values()))
    left = [item for item in items if state(of[item.nodeid], changed) != "fresh"]
    if len(left) < len(items):
        config.stash[_FRESH] = len(items) - len(left)
    items[:] = left


_FRESH: Final = pytest.StashKey[int]()


def pytest_report_collectionfinish(config: pytest.Config) -> str:
    """Report how many were left out."""
    fresh = config.stash.get(_FRESH, 0)
    return f"left out: {fresh} proofs that are fresh" if fresh else ""


def named(config: pytest.Config, test: str) -> str:
    """Return the name of a test in the record: with the profile of Hypothesis, if one was chosen."""
    profile = config.getoption("--hypothesis-profile", None)
    return f"{test} --hypothesis-profile={profile}" if profile else test


class Recorder:
    """Records each test when it has ended."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._outcomes: defaultdict[str, set[str]] = defaultdict(set)
        self._seconds: Counter[str] = Counter()
        root = config.rootpath
        differs = _git(root, "status", "--porcelain", "-uno", "--", ".", f":!{RECORD}")
        self._commit = _git(root, "rev-parse", "--short=12", "HEAD") + ("+" if differs else "")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up the phases of a test; write its row after the last of them."""
        test = report.nodeid
        self._outcomes[test].add(report.outcome)
        self._seconds[test] += report.duration  # type: ignore[assignment] # A counter of seconds.
        if report.when == "teardown":
            self._write(test)

    def _write(self, test: str) -> None:
        outcomes, seconds = self._outcomes.pop(test), self._seconds.pop(test)
        worst = next(name for name in ("failed", "skipped", "passed") if name in outcomes)
        proof = Proof(
            named(self._config, test),
            datetime.now(UTC).isoformat(timespec="seconds"),  # noqa: TID251 - the time of the run
            self._commit,
            machine(),
            worst,
            round(seconds, 1),
        )
        keep(self._config.rootpath / RECORD, proof)


def machine() -> str:
    """Return what the speed of a run depends on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GB, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
