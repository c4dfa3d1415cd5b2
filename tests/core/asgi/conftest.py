"""Run on both event loops only what cancels, waits or holds a timer; the rest awaits what it is given."""

from __future__ import annotations

import pytest

ON_BOTH = ("concurrency_queue", "deadline", "lifecycle", "lifespan", "running", "stack", "transfer")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give these modules, and those split from them, asyncio and trio."""
    story = metafunc.module.__name__.rpartition(".test_")[2]
    if story.startswith(ON_BOTH) and "anyio_backend" in metafunc.fixturenames:
        marks = metafunc.definition.iter_markers("parametrize")
        if not any(mark.args[0] == "anyio_backend" for mark in marks):
            metafunc.parametrize("anyio_backend", ["asyncio", "trio"])
