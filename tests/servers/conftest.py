"""Everything here starts programs."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _programs(programs: None) -> None:
    """Put the folder into the tier `process`."""
