"""Run on both event loops only what cancels, waits or holds a timer.

The rest awaits what it is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from postfacta_core.deadlines import requests
from tests.core.virtual import in_virtual_time

ON_BOTH = (
    "concurrency_queue",
    "deadline",
    "lifecycle",
    "lifespan",
    "exchange",
    "websocket",
    "stack",
    "transfer",
)
IN_VIRTUAL_TIME = (
    "handshakes",
    "silence",
    "open_streams",
    "pace",
    "deadline",
    "deadline_clients",
    "lifespan",
    "exchange",
    "websocket",
    "stack_overload",
    "transfer_pace",
)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, Any]]:
    """Run on the loop that the module asks for.

    A sleep costs no time in the modules that are listed.
    """
    loop = getattr(request, "param", "asyncio")
    return in_virtual_time(loop) if _story(request.path) in IN_VIRTUAL_TIME else loop


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the modules that are listed, and those split from them, asyncio and trio."""
    if (
        _story(metafunc.definition.path).startswith(ON_BOTH)
        and "anyio_backend" in metafunc.fixturenames
    ):
        marks = metafunc.definition.iter_markers("parametrize")
        if not any(mark.args[0] == "anyio_backend" for mark in marks):
            metafunc.parametrize("anyio_backend", ["asyncio", "trio"], indirect=True)


def _story(file: Path) -> str:
    return file.stem.removeprefix("test_")


@pytest.fixture
def no_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the limiter at its start: it may grow after two beats, which a busy machine outlasts."""
    monkeypatch.setattr(requests, "_TICK", 3600.0)
