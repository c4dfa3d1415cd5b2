"""What is observed does not depend on the event loop.

What runs calls is tested on both, in `guards`.
"""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
