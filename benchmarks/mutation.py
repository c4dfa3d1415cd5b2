"""Break each line of the policies in turn, and count how many of the breaks a test notices.

mutmut does the breaking, on a copy of the tree in `mutants/`; it goes on where it stopped, and a changed function is
broken anew. Only the tests in `tests/core/policy` that run a function judge it. What it leaves alone are the defaults
of records, constants of modules, and decorated functions.

    python -m benchmarks.mutation [health transfer ...] [--minutes 30] [--least 95]      (needs mutmut)
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["main", "read", "table"]

ROOT = Path(__file__).parent.parent
POLICY = "postfacta_core.policy."
# A timeout is a loop that a test would wait for; what no test runs is as bad as what survives.
KILLED = frozenset({"killed", "timeout"})
LEFT_OUT = frozenset({"skipped", "not checked", "check was interrupted by user"})
_RESULT = re.compile(r"^\s*(?P<mutant>\S+): (?P<status>[a-z ]+)$", re.MULTILINE)


def read(results: str) -> tuple[dict[str, Counter[bool]], list[str]]:
    """Read what `mutmut results` says: by module, how many were noticed (True) or not; and who was not, with why."""
    counts: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    survivors: list[str] = []
    for found in _RESULT.finditer(results):
        mutant, status = found["mutant"], found["status"]
        if status in LEFT_OUT or not mutant.startswith(POLICY):
            continue
        counts[mutant.removeprefix(POLICY).split(".", 1)[0]][status in KILLED] += 1
        if status not in KILLED:
            survivors.append(f"{mutant}: {status}")
    return dict(counts), survivors


def table(counts: Mapping[str, Counter[bool]]) -> Iterator[str]:
    """Write a line in Markdown for each module, the worst first."""
    yield "| module | breaks | noticed | score |"
    yield "|---|---:|---:|---:|"
    for module, count in sorted(counts.items(), key=lambda item: (_score(item[1]), item[0])):
        yield f"| {module} | {count.total():,} | {count[True]:,} | {_score(count):.1f} % |"


def _score(count: Counter[bool]) -> float:
    return 100.0 * count[True] / count.total()


def main(arguments: Sequence[str] | None = None) -> None:
    """Break, count, print; end with 1 if a module has less than the least score, or nothing was broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="of policy/; default: all")
    parser.add_argument("--minutes", type=float, default=30.0, help="after which it stops where it is")
    parser.add_argument("--least", type=float, default=95.0, metavar="PERCENT")
    options = parser.parse_args(arguments)
    # The mark of a CI has Hypothesis try the same examples in each run: else chance decides about some.
    environment = {**os.environ, "CI": "1"}
    chosen = [f"{POLICY}{module}.*" for module in options.modules]
    command = [sys.executable, "-m", "mutmut"]
    try:
        _run(
            [*command, "run", "--max-children", str(os.cpu_count() or 1), *chosen],
            environment,
            options.minutes,
        )
    except subprocess.TimeoutExpired:
        print(f"stopped after {options.minutes:g} minutes; the next run goes on from here")  # noqa: T201 - its job
    counts, survivors = read(_run([*command, "results", "--all", "true"], environment, 1.0))
    counts = {module: count for module, count in counts.items() if module in (options.modules or counts)}
    print("\n".join([*table(counts), "", *survivors]))  # noqa: T201 - its job
    sys.exit(not counts or any(_score(count) < options.least for count in counts.values()))


def _run(command: list[str], environment: Mapping[str, str], minutes: float) -> str:
    """Run it to its end, or to that of the minutes; return what it printed.

    Raises:
        subprocess.TimeoutExpired: If the minutes are over.
        RuntimeError: If it failed, as it does when a test is red without any break.
    """
    # A group of its own: it breaks many things at once, in processes that must end with it.
    with subprocess.Popen(  # noqa: S603 - our own
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            output = process.communicate(timeout=60 * minutes)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        # Its progress goes over one line again and again.
        raise RuntimeError(f"{' '.join(command)} failed:\n{output.rpartition(chr(13))[2][-4000:]}")
    return output


if __name__ == "__main__":
    main()
