"""The page about adding a guard, followed word by word on a copy of the core."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs/how-to/add-a-guard.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What telemetry exposes of it, and what the reference says.
SEEN = """
from docs.generate import page_text
from postfacta_core.guards.gate import Gate
from postfacta_core.telemetry.metrics import Metrics

metrics = Metrics()
gate = Gate("billing", observer=metrics)
gate.call_sync(int)
print(metrics.render()[0].decode())
print(page_text("docs/reference/errors.md"))
print(page_text("docs/reference/metrics.md"))
"""


@pytest.mark.usefixtures("programs")
def test_a_guard_is_added_by_the_page_alone(tmp_path: Path) -> None:
    blocks = BLOCK.findall(PAGE.read_text())
    kinds = [kind for kind, _ in blocks]
    assert kinds == ["python", "python", "python", "text", "python", "python", "sh"]
    guard, error, metric, place, tests, _, _ = (text for _, text in blocks)
    core = tmp_path / "postfacta_core"
    shutil.copytree(ROOT / "src/postfacta_core", core)
    (core / "guards/gate.py").write_text(guard)
    errors = core / "errors.py"
    errors.write_text(f"{errors.read_text()}\n\n{error}")
    catalogue = core / "telemetry/catalogue.py"
    table = "POLICY_METRICS: Final[Mapping[str, About]] = {\n"
    assert table in catalogue.read_text()
    catalogue.write_text(catalogue.read_text().replace(table, table + metric))
    (tmp_path / "test_gate.py").write_text(
        f"{tests}\n\n@pytest.fixture\ndef anyio_backend() -> str:\n    return 'asyncio'\n"
    )
    assert place.replace("gate | ", "") in (ROOT / "pyproject.toml").read_text()
    plain = ("-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path))
    assert "2 passed" in _printed(tmp_path, *plain)
    seen = _printed(tmp_path, "-c", SEEN)
    admitted = (
        'postfacta_gate_decisions_total{decision="admitted",gate="billing",mode="enforce"} 1.0'
    )
    assert admitted in seen
    assert "### GateClosedError" in seen
    assert "`decision` (`admitted`, `refused`)" in seen.partition("`postfacta_gate_")[2][:200]


def _printed(folder: Path, *arguments: str) -> str:
    ran = subprocess.run(  # noqa: S603 - tests of the page, and the script above
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return ran.stdout + ran.stderr
