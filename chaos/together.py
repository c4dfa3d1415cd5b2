"""Starts several things together, or none; and runs a drill in a folder of its own."""

from __future__ import annotations

import argparse
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

__all__ = ["Together", "drill_folder", "drill_parser", "publish"]


class Together(ABC):
    """A context manager that starts all it needs, and ends what it started, also if a later start fails."""

    def __init__(self) -> None:
        self._closing = ExitStack()

    @abstractmethod
    def _start(self) -> None:
        """Start one after the other, and hand each to `_closing`."""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()


def drill_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a drill, which can write its report."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--markdown", type=Path, help="write the report there")
    return parser


@contextmanager
def drill_folder(name: str) -> Generator[Path]:
    """Make a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=f"postfacta-{name}-") as made:
        folder = Path(made)
        folder.chmod(0o755)  # PostgreSQL may run as another user
        yield folder


def publish(report: str, page: Path | None) -> None:
    """Print a report, and write it to its page."""
    sys.stdout.write(report)
    if page:
        page.write_text(report)
