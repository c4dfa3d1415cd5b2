"""The wheel is built once a run, and each environment made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.strangers.kit import Environments, build


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build the source distribution and the wheel of this checkout."""
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def wheel(distributions: tuple[Path, Path]) -> Path:
    """Return the wheel of this checkout."""
    return distributions[1]


@pytest.fixture(scope="session")
def environments(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environments:
    """Make environments with the wheel.

    `environments("fastapi", "uvicorn", extras=["postgres"])`.
    """
    return Environments(wheel, tmp_path_factory.mktemp("environments"))


@pytest.fixture(autouse=True)
def _programs(programs: None) -> None:
    """Put the folder into the tier `process`."""
