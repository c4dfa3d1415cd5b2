"""Break each function of the modules that matter in turn, and count which breaks a test notices.

One process collects the tests, runs each once to see which lines it covers, and keeps a PostgreSQL
for them. For each mutant it forks: the child gets the changed code of one function, and runs the
tests that cover the changed line until one fails. Nothing is written to the tree. Each 50th child
gets no change at all: if one of these fails, so may others by chance.

    python -m benchmarks.mutation [pool rules ...] [--minutes 60] [--seed 1] [--results FILE]
    [--again] [--least 95]
"""

from __future__ import annotations

import argparse
import ast
import gc
import json
import os
import random
import resource
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NoReturn

import coverage
import pytest

from benchmarks.mutants import Mutant, compiled, functions, mutants_of
from benchmarks.mutation_page import (
    KILLED,
    PAGE,
    Result,
    change,
    counted,
    equivalents,
    score,
    table,
)

__all__ = ["main"]

ROOT = Path(__file__).parent.parent
SOURCES = (
    "src/postfacta_core/guards/*.py",
    "src/postfacta_core/limits/*.py",
    "src/postfacta_core/deadlines/*.py",
    "src/postfacta_core/drain/*.py",
    "src/postfacta_core/health/*.py",
    "src/postfacta_adapters/*.py",
    "src/postfacta_postgres/*.py",
    "src/postfacta_web/*.py",
    "src/postfacta_app/timeline/rules.py",
    "src/postfacta_app/db.py",
)
TESTS = (
    "tests/core/guards",
    "tests/core/limits",
    "tests/core/deadlines",
    "tests/core/drain",
    "tests/core/health",
    "tests/adapters",
    "tests/postgres",
    "tests/web",
    "tests/core/test_composition.py",
    "tests/core/test_refusals.py",
    "tests/attack/test_settings.py",
    "tests/core/test_lives.py",
    "tests/core/test_testing.py",
    "tests/app/timeline",
    "tests/app/test_db.py",
    "tests/app/test_db_reads.py",
)
# They start programs for each test, or read the byte code that is changed here.
LEFT_OUT = (
    "test_pgbouncer",
    "test_browser",
    "test_pages",
    "test_signals",
    "test_no_thread_can_come_between_reading_and_writing_the_tokens",
    "test_a_call_leaves_nothing_for_the_cyclic_collector",
)
CONTROL_EACH = 50
FIRST_BUDGET = 2.5
SECOND_BUDGET = 12.0
# Seconds after which a mutant is taken for one that hangs: of the processor, without it, and of
# all.
BUSY = 2.0
IDLE = 6.0
MOST = 120.0
MEMORY = 6 << 30


class _End:
    """Stands for the test after the last one, so that pytest does not end the session."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session

    def listchain(self) -> list[pytest.Session]:
        """Return what must not be torn down."""
        return [self._session]


class Breaker:
    """A plugin of pytest that runs the tests on mutants instead of once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._results: Path = options.results
        self._items: list[pytest.Item] = []
        self._seconds: list[float] = []
        self._covering: dict[str, dict[int, list[int]]] = {}
        self._functions: dict[tuple[str, str, int], list[FunctionType]] = defaultdict(list)
        self._killers: defaultdict[str, Counter[int]] = defaultdict(Counter)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Break, and judge."""
        self._items = [
            item for item in session.items if not any(word in item.nodeid for word in LEFT_OUT)
        ]
        self._warm_up()
        gc.unfreeze()  # The collector does not list what the collection of the tests froze.
        for thing in gc.get_objects():
            if isinstance(thing, FunctionType):
                code = thing.__code__
                self._functions[code.co_filename, code.co_qualname, code.co_firstlineno].append(
                    thing
                )
        gc.freeze()
        self._measure()
        self._break_all()
        return True

    def _warm_up(self) -> None:
        """Run a test that needs the server and the migrated template, so that all children have both."""
        first = next(
            item for item in self._items if "app_database_dsn" in getattr(item, "fixturenames", ())
        )
        self._passes(first, _End(first.session))

    def _measure(self) -> None:
        """Run each test that was not measured yet in a child, and learn how long it takes and which lines it covers."""
        path = self._results.with_suffix(".baseline.json")
        old: dict[str, Any] = (
            json.loads(path.read_text()) if path.exists() else {"seconds": {}, "lines": {}}
        )
        new = [place for place, item in enumerate(self._items) if item.nodeid not in old["seconds"]]
        if new:
            child = os.fork()
            if child == 0:
                self._write_baseline(path, old, new)
            os.waitpid(child, 0)
        baseline = json.loads(path.read_text())
        places = {item.nodeid: place for place, item in enumerate(self._items)}
        self._seconds = [baseline["seconds"].get(item.nodeid, -1.0) for item in self._items]
        for module, lines in baseline["lines"].items():
            self._covering[module] = {
                int(line): [places[test] for test in tests if test in places]
                for line, tests in lines.items()
            }
        failed = [
            item.nodeid for item, it in zip(self._items, self._seconds, strict=True) if it < 0
        ]
        print(f"{len(self._items)} tests; left out, red without any change: {failed}", flush=True)  # noqa: T201

    def _write_baseline(
        self, path: Path, baseline: dict[str, Any], places: Sequence[int]
    ) -> NoReturn:
        _silence()
        files = [str(ROOT / source) for source in SOURCES]
        cover = coverage.Coverage(data_file=None, config_file=False, include=files)
        cover.start()
        for item, following in self._in_order(places):
            cover.switch_context(item.nodeid)
            started = time.perf_counter()
            passed = self._passes(item, following)
            baseline["seconds"][item.nodeid] = time.perf_counter() - started if passed else -1.0
        cover.stop()
        data = cover.get_data()
        for name in data.measured_files():
            lines = baseline["lines"].setdefault(name, {})
            for line, tests in data.contexts_by_lineno(name).items():
                lines.setdefault(str(line), []).extend(test for test in tests if test)
        path.write_text(json.dumps(baseline))
        os._exit(0)

    def _passes(self, item: pytest.Item, following: pytest.Item | _End) -> bool:
        """Run a test, and keep what the one that follows needs."""
        before = item.session.testsfailed
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        return item.session.testsfailed == before

    def _in_order(self, tests: Iterable[int]) -> Iterator[tuple[pytest.Item, pytest.Item | _End]]:
        items = [self._items[test] for test in tests]
        return zip(items, [*items[1:], _End(items[0].session)], strict=True)

    def _break_all(self) -> None:
        ends = time.monotonic() + 60 * self._options.minutes
        done = {(r["module"], r["number"]): r for r in _read(self._results)}
        work: list[tuple[str, Mutant]] = []
        trees: dict[str, ast.Module] = {}
        for module in _modules(self._options.modules):
            trees[module] = ast.parse((ROOT / module).read_text())
            for mutant in mutants_of(trees[module]):
                old = done.get((module, mutant.number))
                again = old is not None and old["status"] in {"survived", "uncovered"}
                if again if self._options.again else old is None:
                    work.append((module, mutant))
        random.Random(self._options.seed).shuffle(work)  # noqa: S311 - a fixed series, no secret
        budget = SECOND_BUDGET if self._options.again else FIRST_BUDGET
        with self._results.open("a") as file:
            for count, (module, mutant) in enumerate(work):
                if time.monotonic() > ends:
                    print(  # noqa: T201
                        f"stopped after {self._options.minutes:g} minutes: {len(work) - count} are"
                        " left"
                    )
                    break
                result = self._judge(module, trees[module], mutant, budget)
                file.write(json.dumps(result) + "\n")
                if count % CONTROL_EACH == 0:
                    file.write(json.dumps(self._judge(module, None, mutant, budget)) + "\n")
                file.flush()

    def _judge(self, module: str, tree: ast.Module | None, mutant: Mutant, budget: float) -> Result:
        filename = str(ROOT / module)
        tests = self._tests(filename, mutant, budget)
        status, by = ("uncovered", None) if not tests else self._run(filename, tree, mutant, tests)
        if status == "killed" and by is not None and tree is not None:
            self._killers[mutant.function][by] += 1
        return {
            "module": module,
            "number": mutant.number if tree is not None else -1 - mutant.number,
            "function": mutant.function,
            "line": mutant.line,
            "before": mutant.before,
            "after": mutant.after,
            "status": status if tree is not None else f"control {status}",
            "tests": len(tests),
            "by": None if by is None else self._items[by].nodeid,
        }

    def _tests(self, filename: str, mutant: Mutant, budget: float) -> list[int]:
        """Return the tests that cover the line.

        First who noticed others in this function, then the quickest.
        """
        covering = self._covering.get(filename, {})
        found = {
            test
            for line in mutant.lines
            for test in covering.get(line, ())
            if self._seconds[test] >= 0
        }
        killers = self._killers[mutant.function]
        ordered = sorted(found, key=lambda it: (-killers[it], self._seconds[it], it))
        chosen: list[int] = []
        spent = 0.0
        for test in ordered:
            if not chosen or spent + self._seconds[test] <= budget:
                chosen.append(test)
                spent += self._seconds[test]
        return chosen

    def _run(
        self, filename: str, tree: ast.Module | None, mutant: Mutant, tests: Sequence[int]
    ) -> tuple[str, int | None]:
        code = None
        if tree is not None:
            try:
                code = compiled(tree, filename, mutant.number)
            except SyntaxError:
                return "invalid", None
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            self._in_child(code, tests, writer)
        os.close(writer)
        status = _wait(child, sum(self._seconds[test] for test in tests))
        with os.fdopen(reader) as file:
            by = file.read()
        return status, int(by) if by else None

    def _in_child(self, code: CodeType | None, tests: Sequence[int], writer: int) -> NoReturn:
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            _silence()
            if code is not None and not self._exchange(code):
                os._exit(3)
            for test, pair in zip(tests, self._in_order(tests), strict=True):
                if not self._passes(*pair):
                    os.write(writer, str(test).encode())
                    os._exit(1)
        except BaseException:  # noqa: BLE001 - a broken function may raise anything anywhere
            os._exit(1)
        os._exit(0)

    def _exchange(self, module: CodeType) -> bool:
        """Give the changed code to each function that runs the old one; whether there is any."""
        changed = False
        for code in functions(module):
            for function in self._functions[
                code.co_filename, code.co_qualname, code.co_firstlineno
            ]:
                if function.__code__ != code and len(code.co_freevars) == len(
                    function.__code__.co_freevars
                ):
                    function.__code__ = code
                    changed = True
        return changed


def _wait(child: int, expected: float) -> str:
    """Wait for a child's verdict.

    End it when it burns the processor, or does nothing, for too long.
    """
    started = busy = time.monotonic()
    used = 0.0
    pause = 0.002
    while True:
        ended, code = os.waitpid(child, os.WNOHANG)
        if ended:
            exit_code = os.waitstatus_to_exitcode(code)
            return {0: "survived", 3: "unreachable"}.get(exit_code, "killed")
        time.sleep(pause)  # noqa: TID251 - there is no loop here
        pause = min(2 * pause, 0.05)
        now = time.monotonic()
        stat = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        spent = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
        if spent > used or stat[0] == "R":
            used = spent
            busy = now
        if used > BUSY + expected or now - busy > IDLE or now - started > MOST:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "timeout"


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _modules(words: Sequence[str]) -> list[str]:
    found = [
        path
        for pattern in SOURCES
        for path in sorted(ROOT.glob(pattern))
        if path.stem != "__init__"
    ]
    return [
        path.relative_to(ROOT).as_posix()
        for path in found
        if not words or any(word in path.as_posix() for word in words)
    ]


def _read(path: Path) -> list[Result]:
    """Return the last result of each mutant."""
    lines = path.read_text().splitlines() if path.exists() else []
    last: Mapping[object, Result] = {(r["module"], r["number"]): r for r in map(json.loads, lines)}
    return list(last.values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Break, count, print.

    End with 1 if fewer were noticed than the least, or nothing was broken.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help="a part of a path; default: all"
    )
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="after which it stops where it is"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="of the order, so that a part is a sample"
    )
    parser.add_argument(
        "--results", type=Path, default=ROOT / "mutants.jsonl", help="it goes on from there"
    )
    parser.add_argument(
        "--again", action="store_true", help="judge the survivors again, by more of the tests"
    )
    parser.add_argument("--least", type=float, default=95.0, metavar="PERCENT")
    options = parser.parse_args(arguments)
    # The mark of a CI has Hypothesis try the same examples in each run: else chance decides about
    # some.
    os.environ["CI"] = "1"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it ends its server, too
    flags = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=no", "-s"]
    pytest.main([*flags, *(str(ROOT / test) for test in TESTS)], plugins=[Breaker(options)])
    modules = _modules(options.modules)
    totals = {module: len(mutants_of(ast.parse((ROOT / module).read_text()))) for module in modules}
    results = [it for it in _read(options.results) if it["module"] in totals]
    equivalent = equivalents(PAGE.read_text())
    print("\n".join(table(results, equivalent, totals)))  # noqa: T201 - its job
    for it in counted(results):
        if it["status"] not in KILLED:
            print(f"{it['module']}:{it['line']} {change(it)}: {it['status']}")  # noqa: T201
    sys.exit(score(results, equivalent) < options.least)


if __name__ == "__main__":
    main()
