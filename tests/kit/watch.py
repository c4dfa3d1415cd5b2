"""See which programs are started while a fast test runs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

__all__ = ["sparing", "watch"]

_STARTS = frozenset({"os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen"})


class Watch:
    """Report the programs that are started while a fast test runs."""

    def __init__(self) -> None:
        self.started: list[str] | None = None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.started is not None and event in _STARTS:
            self.started.append(f"{event}({arguments[0]!r})" if arguments else event)


watch = Watch()


@contextmanager
def sparing() -> Generator[None]:
    """Let a fixture that all tiers share, such as the session's PostgreSQL, start programs."""
    started, watch.started = watch.started, None
    try:
        yield
    finally:
        watch.started = started
