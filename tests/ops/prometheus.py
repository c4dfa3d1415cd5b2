"""Runs a real Prometheus beside a test.

Its own child, on a port of its own, gone when the block ends.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest

from postfacta_lab.engine.processes import free_port, wait_until

__all__ = ["Prometheus", "Sample", "needs", "scrape_config"]

_START = 30.0
_STOP = 20.0


def needs(program: str, package: str = "prometheus") -> pytest.MarkDecorator:
    """Skip without a program of the system, but fail where nothing may be missing."""
    missing = shutil.which(program) is None and "TEST_REQUIRE_ALL" not in os.environ
    return pytest.mark.skipif(
        missing, reason=f"{program} is not installed (Debian: apt-get install {package})"
    )


def scrape_config(
    jobs: Mapping[str, Sequence[str]], *, every: str = "1s", rules: Sequence[Path] = ()
) -> dict[str, Any]:
    """Make the configuration that scrapes each job's addresses, and nothing else.

    Args:
        jobs: Host and port of each instance, by the job's name.
        every: How often to scrape, and to evaluate rules.
        rules: Files of rules.
    """
    return {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(rule) for rule in rules],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(targets)}]}
            for job, targets in jobs.items()
        ],
    }


@dataclass(frozen=True, slots=True)
class Sample:
    """One series at one moment."""

    labels: Mapping[str, str]
    value: float


class Prometheus:
    """Run one until the block ends.

    Args:
        folder: Where its configuration, data and log are.
        config: All of its configuration; as JSON it is YAML too.
        lookback: How old a sample may be and still be the present one.
        keep: How long samples are kept; older blocks are deleted at the start.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any] | str,
        *,
        lookback: str = "5m",
        keep: str = "15d",
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "prometheus.log"
        file = folder / "prometheus.yml"
        file.write_text(config if isinstance(config, str) else json.dumps(config, indent=2))
        self._command = [
            shutil.which("prometheus") or "prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            f"--query.lookback-delta={lookback}",
            f"--storage.tsdb.retention.time={keep}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - an argument list, no shell
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            wait_until(self._is_ready, "prometheus is ready", within=_START, every=0.05)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; again changes nothing."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def query(self, expr: str, *, at: float | None = None) -> list[Sample]:
        """Evaluate an expression now, or at a moment; a number counts as one series without labels.

        Raises:
            ValueError: It refused the expression; its own words are shown.
        """
        given = {"query": expr} | ({} if at is None else {"time": f"{at:.3f}"})
        data = self.get("query", given)
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        return [Sample(one["metric"], float(one["value"][1])) for one in data["result"]]

    def wait_for(self, expr: str, *, within: float) -> list[Sample]:
        """Wait until an expression gives something, and return that.

        Raises:
            TimeoutError: It gave nothing in time.
        """
        wait_until(
            lambda: bool(self.query(expr)), f"{expr} gives something", within=within, every=0.1
        )
        return self.query(expr)

    def get(self, what: str, given: Mapping[str, str] | None = None) -> Any:
        """Ask its API, such as `targets`, `rules`, `alerts`, `metadata`."""
        address = f"{self.url}/api/v1/{what}"
        if given:
            answer = httpx2.post(
                address, data=dict(given), timeout=20.0
            )  # long queries fit in no address
        else:
            answer = httpx2.get(address, timeout=20.0)
        body = answer.json()
        if body["status"] != "success":
            raise ValueError(f"Prometheus refused {what} {given or ''}: {body.get('error')}")
        return body["data"]

    def _is_ready(self) -> bool:
        if self._process is not None and (code := self._process.poll()) is not None:
            last = self.log.read_text(errors="replace")[-1500:]
            raise RuntimeError(f"prometheus ended with {code}; its last words:\n{last}")
        try:
            return httpx2.get(f"{self.url}/-/ready", timeout=2.0).status_code == 200
        except httpx2.TransportError:
            return False
