"""The service's own output, through a real rsyslog.

Each line comes out once, parsed, in the file of its kind.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from postfacta_core.telemetry.logs import JsonFormatter
from tests.kit.waiting import wait_until

CONFIGURATION = Path(__file__).parents[3] / "deploy/logs/rsyslog.conf"
RSYSLOGD = shutil.which("rsyslogd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(
    RSYSLOGD is None and "TEST_REQUIRE_ALL" not in os.environ,
    reason="rsyslog is not installed (Debian: apt-get install rsyslog)",
)

_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What rsyslog reads and writes."""

    folder: Path

    @property
    def source(self) -> Path:
        return self.folder / "service.log"

    def write(self, text: str) -> None:
        """Write to the source as the service does."""
        with self.source.open("a", encoding="utf-8") as file:
            file.write(text)

    def lines(self, kind: str) -> list[str]:
        """Read what came out of one kind, of all days."""
        files = sorted((self.folder / "out").glob(f"{kind}-*"))
        return [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines(kind)]

    def count(self) -> int:
        return sum(len(self.lines(kind)) for kind in ("access", "events", "other"))

    @contextmanager
    def running(self) -> Generator[None]:
        """Run rsyslog for the block."""
        assert RSYSLOGD is not None, "rsyslog is not installed (Debian: apt-get install rsyslog)"
        with subprocess.Popen(  # noqa: S603 - the one that was found
            [RSYSLOGD, "-n", "-f", str(CONFIGURATION), "-i", str(self.folder / "pid")],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                yield
                assert process.poll() is None, process.communicate(timeout=_PATIENCE)[0]
            finally:
                process.terminate()
                said, _ = process.communicate(timeout=_PATIENCE)
        assert "error" not in said.lower(), said

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PIPELINE_SOURCE": str(self.source),
            "PIPELINE_TARGET": str(self.folder / "out"),
            "PIPELINE_STATE": str(self.folder / "state"),
        }


@pytest.fixture
def pipeline(programs: None, tmp_path: Path) -> Pipeline:
    made = Pipeline(tmp_path)
    made.source.touch()
    for part in ("out", "state"):
        (tmp_path / part).mkdir()
    return made


@contextmanager
def service(dsn: str, output: Path) -> Generator[str]:
    """Run the service with its output in a file; give its address."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("POSTFACTA_")
    }
    environment |= {"POSTFACTA_DATABASE_DSN": dsn, "LOG_FORMAT": "JSON"}
    with (
        output.open("a") as file,
        subprocess.Popen(
            [sys.executable, "-m", "postfacta_app", "serve", "--port", "0"],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            found: list[str] = []

            def is_listening() -> bool:
                found[:] = re.findall(r"listening on (http://\S+?);", output.read_text())
                return bool(found)

            wait_until(is_listening, "the service never said where it listens")
            yield found[0]
        finally:
            process.terminate()
            process.wait(_PATIENCE)


def test_rsyslog_itself_finds_no_fault_in_the_configuration(pipeline: Pipeline) -> None:
    assert RSYSLOGD is not None, "rsyslog is not installed (Debian: apt-get install rsyslog)"
    done = subprocess.run(  # noqa: S603 - the one that was found
        [RSYSLOGD, "-N1", "-f", str(CONFIGURATION)],
        env=pipeline.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr.lower()


def test_each_line_of_the_service_comes_out_once_parsed_and_by_its_kind(
    pipeline: Pipeline, database_dsn: str
) -> None:
    with pipeline.running():
        with service(database_dsn, pipeline.source) as url, httpx2.Client(base_url=url) as client:
            for number in range(20):
                assert (
                    client.get("/home", headers={"X-Request-ID": f"of-a-test-{number}"}).status_code
                    == 200
                )
            assert client.get("/nowhere/ä%09").status_code == 404
            pipeline.write(crash_line())
            pipeline.write("Fatal Python error: Segmentation fault\n\tat <nowhere>\n")
            pipeline.write('{"half": an object\n["no object"]\n{"object": "but no event"}\n')
        written = pipeline.source.read_text(encoding="utf-8").splitlines()
        wait_until(
            lambda: pipeline.count() >= len(written),
            f"{pipeline.count()} of {len(written)} came out",
        )
    ours = [json.loads(line) for line in written if '"event"' in line]
    assert in_order(pipeline.events("access")) == in_order(
        [it for it in ours if it["event"] == "http.request"]
    )
    assert in_order(pipeline.events("events")) == in_order(
        [it for it in ours if it["event"] != "http.request"]
    )
    assert sorted(pipeline.lines("other")) == sorted(
        line for line in written if '"event"' not in line
    )
    # None of the three was empty, so that the above says something.
    assert len(pipeline.events("access")) >= 21
    assert {it["event"] for it in pipeline.events("events")} >= {"lifecycle.changed", "it.crashed"}
    assert any("listening on" in line for line in pipeline.lines("other"))


def crash_line() -> str:
    """Write a line with as long a stack trace as there can be, of characters that JSON needs six for."""

    def deep(depth: int) -> None:
        if depth:
            deep(depth - 1)
        raise ValueError("\x01" * 20_000)

    try:
        deep(3)
    except ValueError as error:
        record = logging.makeLogRecord(
            {"msg": "it.crashed", "levelno": logging.ERROR, "name": "test"}
        )
        record.exc_info = (type(error), error, error.__traceback__)
        line = JsonFormatter().format(record)
        assert len(line) > 65_536
        return f"{line}\n"
    raise AssertionError


def in_order(events: Sequence[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(event, sort_keys=True) for event in events)


def test_what_was_written_while_it_was_away_or_before_the_file_was_cut_is_not_lost(
    pipeline: Pipeline,
) -> None:
    def write(*names: str) -> None:
        pipeline.write("".join(json.dumps({"event": name}) + "\n" for name in names))

    def seen() -> list[str]:
        return [event["event"] for event in pipeline.events("events")]

    write("a.first")
    with pipeline.running():
        wait_until(lambda: seen() == ["a.first"], "the first line")
        write("a.second")
        wait_until(lambda: len(seen()) == 2, "the second line")
    write("a.third")
    with pipeline.running():
        wait_until(lambda: len(seen()) == 3, "what came in between")
        os.truncate(pipeline.source, 0)  # As logrotate's `copytruncate` does.
        write("a.fourth")
        wait_until(lambda: len(seen()) == 4, "what came after the cut")
    assert seen() == ["a.first", "a.second", "a.third", "a.fourth"]
