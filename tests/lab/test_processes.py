"""What chaos does to a process it does to all of it, and to nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from postfacta_lab.engine.processes import (
    Child,
    descendants,
    free_port,
    freeze,
    kill,
    thaw,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("programs")

# A parent with two children, each of which counts on in a file of its own.
FAMILY = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
for number in range(2):
    if os.fork() == 0:
        count = 0
        while True:
            count += 1
            (folder / f"{number}").write_text(str(count))
            time.sleep(0.01)
while True:
    time.sleep(1)
"""


@pytest.fixture
def family(tmp_path: Path) -> Generator[subprocess.Popen[bytes]]:
    """Run the family, and be sure that none of it is left."""
    with subprocess.Popen([sys.executable, "-c", FAMILY, str(tmp_path)]) as process:  # noqa: S603 - our own
        try:
            wait_until(
                lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists(),
                "both count",
                within=30,
            )
            yield process
        finally:
            kill(process.pid)


def state(pid: int) -> str:
    """Return the state of a process: R, S or D lives, T is frozen; empty means gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0].replace("Z", "")
    except FileNotFoundError:
        return ""


def test_a_family_is_frozen_whole_and_goes_on_whole(
    family: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    members = [family.pid, *descendants(family.pid)]
    assert len(members) == 3
    assert set(freeze(family.pid)) == set(members)
    wait_until(lambda: {state(pid) for pid in members} == {"T"}, "all are frozen", within=10)
    before = [(tmp_path / str(number)).read_text() for number in range(2)]
    thaw(family.pid)
    wait_until(
        lambda: all((tmp_path / str(n)).read_text() not in {"", before[n]} for n in range(2)),
        "all go on",
        within=10,
    )


def test_a_family_is_killed_whole_even_when_frozen(family: subprocess.Popen[bytes]) -> None:
    members = [family.pid, *descendants(family.pid)]
    freeze(family.pid)
    kill(family.pid)
    wait_until(lambda: not any(state(pid) for pid in members), "all are gone", within=10)


def test_no_other_process_is_touched(family: subprocess.Popen[bytes]) -> None:
    assert os.getpid() not in descendants(family.pid)
    kill(family.pid)
    assert state(os.getpid()) in {"R", "S"}


def test_what_is_gone_already_is_no_error() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(30)
    thaw(process.pid)
    kill(process.pid)


def test_free_ports_are_not_those_that_clients_are_given() -> None:
    assert all(12_000 <= free_port() < 20_000 for _ in range(5))


def test_a_wait_has_an_end() -> None:
    with pytest.raises(TimeoutError, match=r"rain: not within 0\.05 s"):
        wait_until(lambda: False, "rain", within=0.05)


def test_the_log_of_a_service_is_its_owners_alone(tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    log.touch(0o644)
    service = Child("it", [sys.executable, "-c", "print('secret')"], log=log, environment={})
    service.start()
    wait_until(lambda: b"secret" in log.read_bytes(), "it wrote", within=30)
    service.kill()
    assert log.stat().st_mode & 0o777 == 0o600
