"""Until `tests/conftest.py` has it."""

from __future__ import annotations

import pytest


@pytest.fixture
def programs() -> None:
    """Mark what starts programs."""
