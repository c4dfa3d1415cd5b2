"""Workers answer each other; the dead have no number, and the stuck delay no one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from postfacta_core.events import Event, TaskCrashed
from postfacta_core.health.siblings import Siblings

# ruff: noqa: ASYNC240 - tests look at files; no loop serves anybody meanwhile

ROOT = Path(__file__).parents[3]
WORKER = """
import sys, anyio
from postfacta_core.health.siblings import Siblings

async def answer(question):
    return b"%d heard %s" % (siblings.number, question)

async def main():
    global siblings
    siblings = Siblings(sys.argv[1], answer)
    async with siblings:
        print(siblings.number, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "w"


async def answer(question: bytes) -> bytes:
    return b"I heard " + question


@contextmanager
def worker(folder: Path, number: int) -> Generator[subprocess.Popen[str]]:
    """Run a worker in a process of its own, which is killed at the end of the block."""
    process = subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-c", WORKER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{number}\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)


async def test_each_has_a_number_and_gets_the_answers_of_all(folder: Path) -> None:
    one, two, three = (Siblings(folder, answer) for _ in range(3))
    async with one, two, three:
        assert [each.number for each in (one, two, three)] == [0, 1, 2]
        for each in (one, two, three):
            assert await each.ask(b"you") == ([b"I heard you"] * 2, 0)
    async with one:
        assert await one.ask(b"you") == ([], 0)
    assert not list(folder.glob("*.sock"))


async def test_a_number_that_is_free_again_is_taken_first(folder: Path) -> None:
    one, two, three = (Siblings(folder, answer) for _ in range(3))
    async with two:
        async with one:
            assert (two.number, one.number) == (0, 1)
        async with three:
            assert three.number == 1
            assert await two.ask(b"you") == ([b"I heard you"], 0)


@pytest.mark.usefixtures("programs")
async def test_a_killed_worker_is_dropped_and_its_number_is_reused(folder: Path) -> None:
    siblings = Siblings(folder, answer)
    async with siblings:
        with worker(folder, 1):
            assert await siblings.ask(b"you") == ([b"1 heard you"], 0)
        # It left its socket and its lock behind.
        assert (folder / "worker-1.sock").exists()
        assert await siblings.ask(b"you") == ([], 0)
        with worker(folder, 1):
            assert await siblings.ask(b"you") == ([b"1 heard you"], 0)


@pytest.mark.clock("1.7 s")
@pytest.mark.usefixtures("programs")
async def test_a_stuck_worker_delays_others_no_longer_than_the_patience(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postfacta_core.health.siblings._PATIENCE", 0.3)
    siblings = Siblings(folder, answer)
    async with siblings:
        with worker(folder, 1) as stuck, worker(folder, 2):
            os.kill(stuck.pid, signal.SIGSTOP)
            began = time.monotonic()
            assert await siblings.ask(b"you") == ([b"2 heard you"], 1)
            assert time.monotonic() - began < 2
            os.kill(stuck.pid, signal.SIGCONT)
            assert len((await siblings.ask(b"you"))[0]) == 2


async def test_an_answer_that_raises_is_reported_and_is_none(folder: Path) -> None:
    told: list[Event] = []

    async def fail(question: bytes) -> bytes:
        raise ValueError(question)

    one, two = Siblings(folder, answer), Siblings(folder, fail, observer=told.append)
    async with one, two:
        assert await one.ask(b"you") == ([], 1)
        assert await two.ask(b"you") == ([b"I heard you"], 0)
    (crash,) = told
    assert isinstance(crash, TaskCrashed)
    assert isinstance(crash.error, ValueError)


async def test_files_that_are_no_workers_are_passed_over(folder: Path) -> None:
    siblings = Siblings(folder, answer)
    async with siblings:
        (folder / "worker-x.sock").touch()
        (folder / "worker-7.sock").touch()
        (folder / f"worker-{10**9}.sock").touch()
        assert await siblings.ask(b"you") == ([], 0)


async def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError, match="name a folder in it that is not there yet"):
        async with Siblings(tmp_path, answer):
            pass


def test_a_path_that_no_socket_can_have_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="too long for a Unix socket"):
        Siblings("/" + "x" * 100, answer)


async def test_too_many_workers_are_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postfacta_core.health.siblings._MOST", 1)
    async with Siblings(folder, answer):
        with pytest.raises(RuntimeError, match="shared by several services"):
            async with Siblings(folder, answer):
                pass


async def test_without_a_lifespan_there_is_no_number(folder: Path) -> None:
    siblings = Siblings(folder, answer)
    with pytest.raises(RuntimeError, match="does the server run it"):
        _ = siblings.number


async def test_what_ends_the_block_comes_out_as_it_is(folder: Path) -> None:
    with pytest.raises(KeyError):
        async with Siblings(folder, answer):
            raise KeyError


async def test_a_socket_that_cannot_be_made_gives_the_number_back(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / "worker-0.sock").mkdir()
    siblings = Siblings(folder, answer)
    with pytest.raises(OSError, match="worker-0"):
        async with siblings:
            pass
    (folder / "worker-0.sock").rmdir()
    async with siblings:
        assert siblings.number == 0
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(folder / "worker-0.sock"))
