"""The wheel is built once a run, and each environment made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.strangers.kit import Environments, build_wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of this checkout."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def environments(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environments:
    """Make environments with the wheel: `environments("fastapi", "uvicorn", extras=["postgres"])`."""
    return Environments(wheel, tmp_path_factory.mktemp("environments"))


@pytest.fixture(autouse=True)
def _programs(programs: None) -> None:
    """Put the folder into the tier `process`."""
