"""What all tests share: both event loops, and one real PostgreSQL for the whole run."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each async test on both loops; a module that needs asyncio overrides this."""
    return str(request.param)
