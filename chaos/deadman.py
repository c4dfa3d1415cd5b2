"""Starts the other end of the dead man's switch, `deploy/bin/deadman.py`, at a pace of the caller's choice."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Self

import httpx2

# Each program here starts and ends in the same way.
from postfacta_lab.engine.processes import Child, free_port, wait_until

__all__ = ["DeadMan"]

_PROGRAM = Path(__file__).parent.parent / "deploy/bin/deadman.py"


class DeadMan(Child):
    """One switch; a context manager, running inside the block.

    Args:
        folder: Where the pager's address and the log are written.
        pager: Where it pages.
        limit: Seconds without a ping after which it does.
    """

    def __init__(self, folder: Path, pager: str, *, limit: float) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        folder.mkdir(parents=True, exist_ok=True)
        secret = folder / "deadman_pager_url"
        secret.write_text(pager)
        secret.chmod(0o600)
        limits = [f"--limit={limit}", "--repeat=3600"]
        super().__init__(
            "deadman",
            [
                sys.executable,
                str(_PROGRAM),
                f"--port={self.port}",
                f"--page-url-file={secret}",
                *limits,
            ],
            log=folder / "deadman.log",
            environment=os.environ,
        )

    def age(self) -> float | None:
        """Return how many seconds ago the last ping came; None if it does not answer."""
        try:
            return float(httpx2.get(self.url, timeout=2.0).text)
        except httpx2.TransportError:
            return None

    def __enter__(self) -> Self:
        self.start()
        wait_until(lambda: self.age() is not None, "the dead man's switch listens", within=30)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
