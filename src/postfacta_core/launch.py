"""Start any server as a child, and drain it before it is stopped.

    python -m postfacta_core.launch --drain-delay 5 -- uvicorn app:app --workers 4

On SIGTERM or SIGINT the file named by `POSTFACTA_DRAIN_FILE` appears, by which every worker learns that it is to fail
its readiness; the signal itself is forwarded when the drain delay is over, or when a second one comes. Signals that
mean something else to servers are forwarded at once. The launcher ends when the server does, with its exit code, or
128 + n if signal n killed it. It can be a container's first process: it reaps whatever is left to it.

The server runs in a process group of its own, so that Ctrl-C in a terminal reaches the launcher alone, which then
drains, without a delay. Where the launcher is killed by force (SIGKILL), the server gets no signal: let the
supervisor end the group or container, as they do.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory

from .clock import MONOTONIC
from .terminal import is_ctrl_c

_VARIABLE = "POSTFACTA_DRAIN_FILE"  # drain.signals reads it
_STOPS = (signal.SIGTERM, signal.SIGINT)
_FORWARDED = (
    *(signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH),  # gunicorn: more workers, fewer, none
)
# Python ignores these two, and a child would inherit that.
_RESET = (signal.SIGPIPE, signal.SIGXFSZ)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a server until it ends.

    Returns:
        The server's exit code, 128 + n if signal n killed it, 127 if it cannot be started.
    """
    options = _parser().parse_args(arguments)
    with TemporaryDirectory(prefix="postfacta-") as folder, _received() as received:
        drain_file = Path(folder) / "drain"
        # Workers may run as another user (gunicorn's `--user`): they may look for the file, not list the folder.
        Path(folder).chmod(0o711)
        try:
            server = _start(options.command, drain_file)
        except OSError as error:
            _say(f"cannot start {options.command[0]}: {error.strerror}")
            return 127
        return _Watch(server, drain_file, options.drain_delay).run(received)


class _Watch:
    """Supervises one server: catches signals, forwards them, and waits for its end."""

    def __init__(self, server: int, drain_file: Path, drain_delay: float) -> None:
        self._server = server
        self._drain_file = drain_file
        self._drain_delay = drain_delay
        self._stop: tuple[int, float] | None = None  # what is kept back, and until when

    def run(self, received: SimpleQueue[int]) -> int:
        while True:
            with suppress(Empty):
                self._handle(received.get(timeout=self._patience()))
            code = self._reap()
            if code is not None:
                return code
            if self._stop is not None and self._patience() == 0:
                os.kill(self._server, self._stop[0])
                self._stop = None

    def _patience(self) -> float | None:
        return None if self._stop is None else max(0.0, self._stop[1] - MONOTONIC())

    def _handle(self, signum: int) -> None:
        if signum in _FORWARDED:
            os.kill(self._server, signum)
        elif signum in _STOPS and self._drain_file.exists():
            self._stop = (signum, -math.inf)
        elif signum in _STOPS:
            self._drain(signum)

    def _drain(self, signum: int) -> None:
        delay = 0.0 if is_ctrl_c(signum) else self._drain_delay
        self._stop = (signum, MONOTONIC() + delay)
        _say(f"{signal.Signals(signum).name}: draining for {delay:g} s")
        try:
            self._drain_file.touch()
        except OSError as error:
            _say(f"cannot start the drain of the server: {error}")
            self._stop = (signum, -math.inf)

    def _reap(self) -> int | None:
        """Reap all processes that ended; return the server's exit code if it is among them."""
        while True:
            # The server itself is not gone before this loop has seen it, so there is a child to wait for.
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return None
            if process == self._server:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code


def _start(command: list[str], drain_file: Path) -> int:
    environment = {**os.environ, _VARIABLE: str(drain_file)}
    return os.posix_spawnp(command[0], command, environment, setpgroup=0, setsigdef=_RESET)


@contextmanager
def _received() -> Generator[SimpleQueue[int]]:
    """Put each signal into a queue, whose `put` may be called in the midst of itself."""
    received: SimpleQueue[int] = SimpleQueue()
    # What was ignored stays so, as with nohup.
    signums = [s for s in (*_STOPS, *_FORWARDED) if signal.getsignal(s) is not signal.SIG_IGN]
    before = {
        s: signal.signal(s, lambda signum, frame: received.put(signum)) for s in (*signums, signal.SIGCHLD)
    }
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m postfacta_core.launch",
        description="Start a server; on SIGTERM let it fail its readiness first, and forward the signal later.",
    )
    parser.add_argument(
        "--drain-delay",
        type=_seconds,
        default=5.0,
        metavar="SECONDS",
        help="from the signal to the server's own (default: 5)",
    )
    parser.add_argument("command", nargs="+", help="the server and its arguments, after --")
    return parser


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"not a number of seconds: {text}")


def _say(words: str) -> None:
    sys.stderr.write(f"launch: {words}\n")


if __name__ == "__main__":
    sys.exit(main())
