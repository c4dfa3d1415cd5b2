"""See which programs are started while a fast test runs."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

__all__ = ["sparing", "watch"]


class Watch:
    """Report the programs that are started while a fast test runs."""

    def __init__(self) -> None:
        self.started: list[str] | None = None

    def begin(self) -> None:
        """Stand before each function that starts a program, once in a process.

        No audit hook does it: one in Python lets CPython 3.11 change threads while it installs a
        trace function, and a thread that coverage begins to measure in that moment dies of it.
        """
        starts = [
            (os, f"os.{name}", name) for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp")
        ]
        for owner, known, name in (*starts, (subprocess.Popen, "subprocess.Popen", "__init__")):
            start = getattr(owner, name)
            if not hasattr(start, "__wrapped__"):
                setattr(owner, name, self._reporting(known, start, of=int(name == "__init__")))

    def _reporting(self, name: str, start: Callable[..., Any], of: int) -> Callable[..., Any]:
        @functools.wraps(start)
        def reporting(*arguments: Any, **options: Any) -> Any:
            if self.started is not None:
                program = arguments[of : of + 1] or (options.get("args"),)
                self.started.append(f"{name}({program[0]!r})" if program[0] is not None else name)
            return start(*arguments, **options)

        return reporting


watch = Watch()


@contextmanager
def sparing() -> Generator[None]:
    """Let a fixture that all tiers share, such as the session's PostgreSQL, start programs."""
    started, watch.started = watch.started, None
    try:
        yield
    finally:
        watch.started = started
