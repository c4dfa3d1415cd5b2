"""Each experiment of tier A holds, in its short form: one of them in CI.

And the judge of experiments is not easily satisfied.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from chaos.__main__ import QUICK
from chaos.catalogue import find
from chaos.processes import Haproxy
from chaos.stack import prepare
from postfacta_lab.chaos.command import run
from tests.kit.pg import open_folder

NAMES = ("C01", "C02", "C03", "C04", "C05")
SMOKE = "C01"


@pytest.fixture(scope="module")
def template() -> Generator[Path]:
    """Make the database once that each experiment starts from a copy of."""
    if Haproxy.program() is None:
        if os.environ.get("TEST_REQUIRE_ALL"):
            pytest.fail("haproxy is not installed")
        pytest.skip("haproxy is not installed: apt-get install haproxy")
    with open_folder() as folder:
        yield prepare(folder / "template")


@pytest.mark.clock("0.4 s: users wait for less than half a second")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == SMOKE else pytest.mark.long) for name in NAMES],
)
def test_it_holds(name: str, template: Path, tmp_path: Path) -> None:
    (path,) = find([name])
    settings = {**QUICK, "CHAOS_TEMPLATE": str(template)}
    done = run(path, tmp_path / "0", settings=settings)
    for again in ("1", "2"):
        if done.verdict == "unknown":  # It was not well before, so nothing was asked of it.
            done = run(path, tmp_path / again, settings=settings)
    assert (done.verdict, list(done.reasons)) == ("pass", [])
    assert {met for _, _, met in done.probes} == {"met"}
    assert done.users["findings"]["acknowledged"] > 0
    assert done.users["marks"], "nothing was done to the service"


def test_all_experiments_are_run_here() -> None:
    assert [path.name.partition("-")[0] for path in find()] == list(NAMES)


def way_back() -> bool:
    """Stand for a rollback that works; Chaos Toolkit calls it by name."""
    return True


def no_way_back() -> bool:
    """Stand for a rollback that ran, and left the system broken."""
    return False


def a_run(
    folder: Path, *, before: str, after: str, back: str = "way_back"
) -> tuple[str, list[str]]:
    """Run a made-up experiment whose one probe finds a word before, and a word after."""
    for name, text in (("now", before), ("then", after)):
        (folder / name).write_text(text)
    probe: dict[str, Any] = {
        "type": "probe",
        "name": "the claim",
        "tolerance": {"type": "regex", "pattern": "^good", "target": "stdout"},
        "provider": {"type": "process", "path": "cat", "arguments": str(folder / "now")},
    }
    deed = {"type": "process", "path": "cp", "arguments": f"{folder / 'then'} {folder / 'now'}"}
    module = {"type": "python", "module": "tests.chaos.test_experiments", "func": back}
    experiment = {
        "title": "X1 A made-up claim",
        "description": "It is about the judge.",
        "steady-state-hypothesis": {"title": "It holds", "probes": [probe]},
        "method": [{"type": "action", "name": "the deed", "provider": deed}],
        "rollbacks": [{"type": "probe", "name": "the way back", "provider": module}],
    }
    path = folder / "X1-made-up.json"
    path.write_text(json.dumps(experiment))
    done = run(path, folder / "out")
    return done.verdict, list(done.reasons)


@pytest.mark.parametrize(
    ("before", "after", "back", "verdict"),
    [
        ("good", "good", "way_back", "pass"),
        ("good", "bad", "way_back", "deviated"),
        ("bad", "good", "way_back", "deviated"),
        ("good", "good", "no_way_back", "deviated"),
    ],
)
def test_only_what_holds_passes(
    before: str, after: str, back: str, verdict: str, tmp_path: Path
) -> None:
    found, reasons = a_run(tmp_path, before=before, after=after, back=back)
    assert found == verdict
    assert bool(reasons) == (verdict != "pass")
