"""The launcher tells the server to drain, waits, forwards the signal, and ends as the server does."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from postfacta_core.launch import main

pytestmark = pytest.mark.usefixtures("programs")

# A server: it says what it hears, and ends with 7 on SIGTERM or SIGINT, or when `end` appears.
SERVER = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
notes = os.open(folder / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def note(words):
    os.write(notes, (words + chr(10)).encode())
def hear(signum, frame):
    drain = pathlib.Path(os.environ["POSTFACTA_DRAIN_FILE"])
    note(signal.Signals(signum).name + (" draining" if drain.exists() else ""))
    if signum in (signal.SIGTERM, signal.SIGINT):
        sys.exit(7)
for name in ("TERM", "INT", "HUP", "USR1", "USR2", "QUIT", "WINCH", "TTIN", "TTOU"):
    signal.signal(getattr(signal, "SIG" + name), hear)
note("started " + os.environ["POSTFACTA_DRAIN_FILE"])
for _ in range(1200):
    if (folder / "end").exists():
        break
    time.sleep(0.05)
"""


class Launched:
    """A launcher, and what its server wrote down."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.folder = folder

    def notes(self) -> list[str]:
        file = self.folder / "notes"
        return file.read_text().splitlines() if file.exists() else []

    def drain_file(self) -> Path:
        return Path(self.notes()[0].removeprefix("started "))

    def until(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < until, self.notes()
            time.sleep(0.01)  # noqa: TID251 - a real process, in a test

    def send(self, signum: int) -> None:
        self.process.send_signal(signum)

    def drain(self) -> None:
        self.send(signal.SIGTERM)
        self.until(self.drain_file().exists)


@contextmanager
def launched(
    folder: Path, *, delay: float = 600, before: tuple[str, ...] = (), stdin: int | None = None
) -> Generator[Launched]:
    """Launch the server above."""
    server = [sys.executable, "-c", SERVER, str(folder)]
    launcher = [sys.executable, "-m", "postfacta_core.launch", "--drain-delay", str(delay), "--"]
    with subprocess.Popen(  # noqa: S603 - our own code
        [*before, *launcher, *server], stdin=stdin, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        one = Launched(process, folder)
        try:
            one.until(lambda: bool(one.notes()))
            yield one
        finally:
            (folder / "end").touch()  # the server goes, and so does the launcher
            process.wait(30)


def test_the_file_comes_first_and_the_signal_after_the_delay(tmp_path: Path) -> None:
    with launched(tmp_path, delay=0.4) as one:
        assert not one.drain_file().exists()
        assert one.drain_file().parent.stat().st_mode & 0o777 == 0o711, "other users' workers look there too"
        began = time.monotonic()
        one.drain()
        assert one.process.wait(30) == 7
        assert time.monotonic() - began >= 0.35
        assert one.notes()[1:] == ["SIGTERM draining"]
        assert not one.drain_file().parent.exists(), "it leaves its folder behind"
        assert one.process.stderr
        assert one.process.stderr.read() == "launch: SIGTERM: draining for 0.4 s\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_skips_the_wait(signum: signal.Signals, tmp_path: Path) -> None:
    with launched(tmp_path) as one:
        one.drain()
        one.send(signum)
        assert one.process.wait(30) == 7
        assert one.notes()[1:] == [f"{signum.name} draining"]


def test_sigint_from_a_program_has_the_delay(tmp_path: Path) -> None:
    with launched(tmp_path) as one:
        one.send(signal.SIGINT)
        one.until(one.drain_file().exists)
        assert len(one.notes()) == 1


@pytest.mark.parametrize(
    "signum", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGTTIN]
)
def test_other_signals_are_forwarded_at_once(signum: signal.Signals, tmp_path: Path) -> None:
    with launched(tmp_path) as one:
        one.send(signum)
        one.until(lambda: len(one.notes()) == 2)
        assert one.notes()[1] == signum.name
        assert one.process.poll() is None


def test_it_ends_when_the_server_does_even_while_draining(tmp_path: Path) -> None:
    with launched(tmp_path) as one:
        one.drain()
        (tmp_path / "end").touch()
        assert one.process.wait(30) == 0


def test_ctrl_c_in_a_terminal_reaches_the_launcher_alone_and_has_no_delay(tmp_path: Path) -> None:
    terminal, its_side = pty.openpty()
    try:
        with launched(tmp_path, before=("setsid", "--ctty", "--wait"), stdin=its_side) as one:
            os.write(terminal, b"\x03")
            assert one.process.wait(30) == 7
            assert one.notes()[1:] == ["SIGINT draining"]
    finally:
        os.close(terminal)
        os.close(its_side)


def test_nohup_keeps_its_meaning(tmp_path: Path) -> None:
    with launched(tmp_path, before=("nohup",)) as one:
        one.send(signal.SIGHUP)
        one.send(signal.SIGUSR1)
        one.until(lambda: len(one.notes()) == 2)
        assert one.notes()[1] == "SIGUSR1"


def ended(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-m", "postfacta_core.launch", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_the_exit_code_is_the_servers(script: str, code: int) -> None:
    assert ended("--", "sh", "-c", script).returncode == code


def test_the_servers_arguments_are_its_own() -> None:
    done = ended("--", "printf", "%s|", "--drain-delay", "x", "--", "-h")
    assert (done.returncode, done.stdout) == (0, "--drain-delay|x|--|-h|")


def test_the_server_gets_the_environment_and_no_ignored_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWER", "aster")
    done = ended("--", "sh", "-c", "grep SigIgn /proc/self/status; echo $FLOWER")
    assert done.stdout.split() == ["SigIgn:", "0" * 16, "aster"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: command"),
        (("--",), "the following arguments are required: command"),
        (("--drain-delay", "soon", "--", "true"), "not a number of seconds: soon"),
        (("--drain-delay", "nan", "--", "true"), "not a number of seconds: nan"),
        (("--drain-delay", "inf", "--", "true"), "not a number of seconds: inf"),
        (("--drain-delay=-1", "--", "true"), "not a number of seconds: -1"),
        (("uvicorn", "app:app", "--workers", "2"), "unrecognized arguments: --workers"),
    ],
)
def test_bad_usage_ends_with_2_and_says_why(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_server_that_is_not_there_ends_with_127_as_in_a_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--", "no-such-server"]) == 127
    assert capsys.readouterr().err == "launch: cannot start no-such-server: No such file or directory\n"
    assert signal.getsignal(signal.SIGTERM) is not None


def test_a_file_that_cannot_be_made_means_no_delay(tmp_path: Path) -> None:
    with launched(tmp_path) as one:
        one.drain_file().parent.rmdir()
        one.send(signal.SIGTERM)
        assert one.process.wait(30) == 7
        assert one.process.stderr
        assert "cannot start the drain of the server" in one.process.stderr.read()


def test_as_first_process_it_reaps_orphans(tmp_path: Path) -> None:
    namespace = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode:  # noqa: S603 - a fixed program
        pytest.skip("needs unshare and the right to make a PID namespace")
    # Orphans end while the server lives: it looks for zombies until there are none.
    server = """
    for n in 1 2 3; do (true & sleep 0.05 &); done; echo $PPID
    for n in $(seq 100); do sleep 0.1; grep -l 'State:.Z' /proc/[0-9]*/status || exit 5; done; exit 6
    """
    done = subprocess.run(  # noqa: S603 - our own code
        [*namespace, sys.executable, "-m", "postfacta_core.launch", "--", "sh", "-c", server],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split()[0] == "1", "it is not the first process"
    assert done.returncode == 5, done
