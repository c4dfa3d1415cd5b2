"""Each test has one tier, a fast one is held to it, and what a run leaves out is counted and named."""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path

import pytest

from tests.kit import tiers

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
# CI sets the first, so that nothing is skipped; the others say where something is.
KNOWN = {"TEST_REQUIRE_ALL", "TOXIPROXY_URL", "SHOTS", "PATH"}
SUITE = """
    import subprocess, time, pytest
    from tests.kit import tiers

    tiers._MOST_CPU = 0.3
    def compute():
        began = time.process_time()
        while time.process_time() < began + 0.31: ...

    @pytest.fixture
    def programs(): ...
    @pytest.fixture
    def chromiums(): ...
    @pytest.fixture
    def server(programs): ...
    @pytest.fixture
    def unruly(): subprocess.run(["true"], check=True)

    def test_fast(): ...
    def test_process(server): subprocess.run(["true"], check=True)
    def test_browser(chromiums, server): ...
    @pytest.mark.clock("1 s")
    def test_clock(server): ...
    @pytest.mark.long
    def test_long(chromiums): ...

    def test_starts(): subprocess.run(["true"], check=True)
    def test_has_started(unruly): ...
    def test_computes(monkeypatch):
        monkeypatch.setattr(tiers, "slowness", lambda: 1.0)
        compute()
    def test_computes_on_a_slow_machine(monkeypatch):
        monkeypatch.setattr(tiers, "slowness", lambda: 4.0)
        compute()
"""
FAST = {
    "test_fast": "passed",
    "test_starts": "failed",
    "test_has_started": "failed",
    "test_computes": "failed",
    "test_computes_on_a_slow_machine": "passed",
}

pytestmark = pytest.mark.usefixtures("programs")


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    # Locust and others take ten times as long to load as the suite takes.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(SUITE)
    markers = "\n".join(f"  {tier}: a tier" for tier in tiers.TIERS)
    pytester.makeini(f"[pytest]\naddopts = -p tests.kit.tiers\nmarkers =\n{markers}\n")
    return pytester


def executed(suite: pytest.Pytester) -> dict[str, str]:
    [written] = (suite.path / ".pytest_cache" / "executed").glob("*.txt")
    lines = [line.split() for line in written.read_text().splitlines()]
    return {name.partition("::")[2]: outcome for outcome, name in lines}


@pytest.mark.parametrize(
    "workers", [(), ("-p", "xdist", "-n", "2")], ids=["one process", "two workers"]
)
def test_fast_is_held_to_fast_and_the_rest_is_counted(
    suite: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    result = suite.runpytest_subprocess("-m", "fast", *workers)
    assert result.outlines[-1] == (
        "not run: 1 process, 1 browser, 1 clock (make test-all); not run: 1 long (make proofs)"
    )
    assert executed(suite) == FAST
    # By line: the summary repeats the reason, whole where the variable CI is set.
    reasons = [line for line in result.outlines if line.startswith("A fast test ")]
    started = "A fast test started subprocess.Popen(['true']); mark it or mend it"
    assert sum(line.startswith(started) for line in reasons) == 2
    [took] = (line for line in reasons if not line.startswith(started))
    assert re.match(r"A fast test took \d+\.\d\d s of the processor; mark it or mend it", took)


@pytest.mark.parametrize(
    "workers", [(), ("-p", "xdist", "-n", "2")], ids=["one process", "two workers"]
)
def test_what_passed_before_is_left_out_and_counted(
    suite: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    suite.runpytest_subprocess("-m", "fast", "-k", "test_fast or test_starts")
    result = suite.runpytest_subprocess(
        "-m", "fast", "-k", "test_fast or test_starts", "--rest", *workers
    )
    # One failed, and one passed: only what passed is not run again.
    result.assert_outcomes(failed=1)
    assert result.outlines[-1].endswith("passed before: 1")


def test_threads_that_coverage_measures_can_begin_at_once() -> None:
    ready, failed = threading.Barrier(4), list[str]()

    def trace(*_: object) -> None:
        """Trace nothing."""

    def begin() -> None:
        ready.wait()
        for _ in range(20_000):
            try:
                sys.settrace(trace)
            except RuntimeError as error:
                failed.append(str(error))

    threads = [threading.Thread(target=begin) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failed == []


def test_each_tier_is_chosen_by_its_mark(suite: pytest.Pytester) -> None:
    result = suite.runpytest_subprocess("-m", "process or browser or clock")
    assert "not run: 1 long (make proofs)" in result.outlines[-1]
    assert executed(suite) == dict.fromkeys(
        ["test_process", "test_browser", "test_clock"], "passed"
    )


def test_the_longest_files_begin(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [file for file in tiers.LONGEST if not (ROOT / file).is_file()] == []
    monkeypatch.setattr(tiers, "LONGEST", ("test_last.py", "test_late.py"))
    # The suite sets it, and runs in this process.
    monkeypatch.setattr(tiers, "_MOST_CPU", 3.0)
    for name in ("first", "last", "late"):
        suite.makepyfile(**{f"test_{name}": f"def test_{name}(): ..."})
    suite.runpytest_inprocess("-m", "fast", "-k", "first or last or late")
    assert list(executed(suite)) == ["test_last", "test_late", "test_first"]


def test_no_variable_of_the_environment_chooses_tests() -> None:
    read = re.compile(r'os\.environ(?:\.get\(|\[)"([A-Z_]+)"|"([A-Z_]+)" (?:not )?in os\.environ')
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path.name.startswith("test_")]
    # The services of strangers read their own settings.
    tests = [path for path in tests if path.parent.name != "strangers"]
    found = {
        (path.name, name)
        for path in tests
        for match in read.finditer(path.read_text())
        for name in match.groups()
        if name and name not in KNOWN
    }
    assert found == set()


def test_no_server_of_a_test_looks_for_the_first_free_port() -> None:
    """Valkey's wheel counts from 16379, so that two workers find the same one before either listens."""
    sources = [path for folder in ("tests", "chaos") for path in (ROOT / folder).rglob("*.py")]
    starts = re.findall(
        r"\bValkeyServer\(\s*([^\s)]*)", "".join(path.read_text() for path in sources)
    )
    assert starts
    assert set(starts) == {"port=free_port("}
