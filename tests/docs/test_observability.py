"""A reader who follows the page from `harden` to an alert gets there.

Its files are saved and its commands run as they stand.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from postfacta_lab.engine.processes import free_port, wait_until
from tests.ops.prometheus import needs

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/how-to/observability.md").read_text()
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SAVED = re.compile(r"Save this as `([\w.]+)`[^`]*\Z")

# A minute of the page is four seconds here; promtool's tests run at the page's own pace.
FASTER = 15


@dataclass(frozen=True, slots=True)
class Step:
    """One block of the page.

    Attributes:
        role: `save`, `run`, `serve` (a terminal of its own), `wait` (until it succeeds), `none`
            (never run here).
        text: What is in it.
        file: What it is saved as.
    """

    role: str
    text: str
    file: str = ""


def steps() -> list[Step]:
    """Read the page from the top down."""
    found: list[Step] = []
    for block in BLOCK.finditer(PAGE):
        language, _, role = block[1].partition(" ")
        before = PAGE[: block.start()].rpartition("```\n")[2]
        if saved := SAVED.search(before.rstrip()):
            found.append(Step("save", block[2], saved[1]))
        elif language == "sh":
            found.append(Step(role or "run", block[2]))
        else:
            found.append(Step("none", block[2]))
    return found


def test_the_page_has_what_this_reads() -> None:
    roles = [step.role for step in steps()]
    assert [step.file for step in steps() if step.file] == [
        "billing.py",
        "billing.openslo.yaml",
        "prometheus.yml",
    ]
    assert {role: roles.count(role) for role in set(roles)} == {
        "save": 3,
        "run": 3,
        "serve": 3,
        "wait": 1,
        "none": 2,
    }
    assert {step.text.split()[0] for step in steps() if step.role == "none"} == {"pip", "docker"}


@pytest.mark.usefixtures("programs")
@needs("prometheus")
@needs("promtool")
def test_a_reader_who_follows_the_page_sees_the_alert(tmp_path: Path) -> None:
    # The page has the checkout beside the service.
    (tmp_path / "postfacta").symlink_to(ROOT)
    desk = Desk(tmp_path / "billing", web=free_port(), prometheus=free_port())
    latest = ExitStack()
    with ExitStack() as terminals:
        for step in steps():
            match step.role:
                case "save":
                    desk.save(step)
                case "run":
                    desk.run(step.text)
                case "serve":
                    latest = ExitStack()
                    terminals.push(latest)
                    latest.enter_context(desk.serve(step.text))
                case "wait":
                    desk.wait(step.text)
                    latest.close()  # Ctrl-C, as the page says
                    desk.wait_silent()
                case _:
                    continue
    boards = {
        file.name: json.loads(file.read_text()) for file in (desk.folder / "dashboards").iterdir()
    }
    assert sorted(boards) == [
        f"billing-{name}.gen.json"
        for name in ("database", "overview", "resilience", "runtime", "slo")
    ]
    assert all(board["tags"][0] == "billing" for board in boards.values())


class Desk:
    """Where a reader follows the page: a folder, and two ports that are free instead of the page's.

    Args:
        folder: Made here.
        web: The service's port.
        prometheus: Prometheus's port.
    """

    def __init__(self, folder: Path, *, web: int, prometheus: int) -> None:
        folder.mkdir()
        self.folder = folder
        self._ports = {"8000": str(web), "9090": str(prometheus)}
        here = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")
        }
        self._environment = kept | {"PATH": here}

    def save(self, step: Step) -> None:
        """Save a file; only Prometheus is set to scrape more often than the page says."""
        text = self._here(step.text)
        if step.file == "prometheus.yml":
            text = re.sub(r"\b15s\b", "1s", text)
        (self.folder / step.file).write_text(text)

    def run(self, text: str) -> None:
        """Run commands to their end; each must succeed."""
        done = self._bash(text)
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        if "--rules" in text:
            self._compress()

    @contextmanager
    def serve(self, text: str) -> Generator[None]:
        """Run commands in a terminal of their own until the block ends, as by Ctrl-C."""
        with (self.folder / "terminals.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - the commands of our own page
                [shutil.which("bash") or "bash", "-c", self._here(text)],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            if port := re.search(r"localhost:(\d+)|--port (\d+)", self._here(text)):
                self._wait_for(int(port[1] or port[2]))
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(40.0)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def wait(self, text: str) -> None:
        """Repeat commands until they succeed.

        Two minutes of the page, and more on a busy machine.
        """
        wait_until(lambda: self._bash(text).returncode == 0, text, within=60.0, every=0.5)

    def wait_silent(self) -> None:
        """Wait until no alert fires: two minutes of the page."""
        url = f"http://localhost:{self._ports['9090']}/api/v1/alerts"
        wait_until(
            lambda: not httpx2.get(url).json()["data"]["alerts"], "silence", within=60.0, every=0.5
        )

    def _compress(self) -> None:
        command = "python -m postfacta_slo generate billing.openslo.yaml --rules billing.rules.yml"
        done = self._bash(f"{command} --compress {FASTER}")
        assert done.returncode == 0, done.stderr

    def _bash(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - the commands of our own page
            [shutil.which("bash") or "bash", "-euo", "pipefail", "-c", self._here(text)],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def _here(self, text: str) -> str:
        for said, port in self._ports.items():
            text = re.sub(rf"\b{said}\b", port, text)
        return text

    def _wait_for(self, port: int) -> None:
        def answers() -> bool:
            try:
                return httpx2.get(f"http://localhost:{port}/metrics", timeout=2.0).is_success
            except httpx2.TransportError:
                return False

        log = self.folder / "terminals.log"
        try:
            wait_until(answers, f"port {port} answers", within=60.0, every=0.1)
        except TimeoutError as error:
            pytest.fail(f"{error}: {log.read_text(errors='replace')[-1500:]}")
