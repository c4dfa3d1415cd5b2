"""The wheel and its environments are those of the strangers.

A source package is fetched once a run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.kit import fetch
from tests.strangers.conftest import distributions, environments, wheel

__all__ = ["distributions", "environments", "sources", "wheel"]


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a package's source, fetched once a run."""
    fetched: dict[str, Path] = {}

    def source(package: str) -> Path:
        if package not in fetched:
            fetched[package] = fetch(package, tmp_path_factory.mktemp(package))
        return fetched[package]

    return source


@pytest.fixture(autouse=True)
def _programs(programs: None) -> None:
    """Put the folder into the tier `process`."""
