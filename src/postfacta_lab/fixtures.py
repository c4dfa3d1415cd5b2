"""Fixtures of pytest that start a service, load it, stop it, or put a fault proxy before it.

Name them in `conftest.py`: `pytest_plugins = ["postfacta_lab.fixtures"]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from .drain.result import Result
from .drain.stop import Service, StartError, Subject, stop
from .engine.variables import credentials, refuse_strangers
from .load.command import Report
from .load.gate import Limits
from .load.generator import Target
from .load.mix import read_mix
from .load.profiles import PROFILES, Plan, run_profile
from .proxy import Toxiproxy, fault_proxy


class Starting:
    """What `lab_service` gives."""

    def __init__(self, folder: Path, closing: ExitStack) -> None:
        self._folder = folder
        self._closing = closing

    def __call__(self, command: str, *, path: str = "/", start: float = 30.0) -> str:
        """Start a service in the foreground, wait for a good answer, and return its address.

        In the command, ``{port}`` stands for its port, which is in PORT too; `start` bounds the
        wait, in seconds.
        """
        subject = Subject(
            Service(command=command, asks=read_mix([path], None), start=start), self._folder
        )
        self._closing.callback(subject.kill)
        try:
            asyncio.run(subject.serve())
        except StartError as error:
            pytest.fail(f"{command}: {error}", pytrace=False)
        return f"http://127.0.0.1:{subject.port}"


class Loading:
    """What `lab_load` gives."""

    def __call__(
        self,
        url: str,
        *,
        paths: Sequence[str] = (),
        mix: Path | None = None,
        rate: float = 20.0,
        seconds: float = 10.0,
        limits: Limits | None = None,
    ) -> Report:
        """Load a service at a steady rate, as `postfacta lab load` does.

        `report.verdict` is 0 if it held.
        """
        refuse_strangers(url)
        target = Target(url, credentials())
        asks = read_mix(paths, mix)
        limits = limits or Limits()
        plan = Plan(target=target, asks=asks, rate=rate, seconds=seconds, limits=limits)
        parts = asyncio.run(run_profile(PROFILES["expected"], plan))
        about = {"url": url, "rate": f"{rate:g}", "seconds": f"{seconds:g}"}
        return Report(parts, limits, about)


class Stopping:
    """What `lab_drain` gives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(
        self,
        command: str,
        *,
        paths: Sequence[str] = (),
        mix: Path | None = None,
        ready: str = "",
    ) -> Result:
        """Stop a service under load, as `postfacta lab drain` does.

        `result.verdict` is 0 if it held.
        """
        service = Service(command=command, asks=read_mix(paths, mix), ready=ready)
        return asyncio.run(stop(service, self._folder))


@pytest.fixture
def lab_service(tmp_path: Path) -> Generator[Starting]:
    """Start services, each as a process that ends with the test."""
    with ExitStack() as closing:
        yield Starting(tmp_path / "lab", closing)


@pytest.fixture
def lab_load() -> Loading:
    """Load a service, and return the report."""
    return Loading()


@pytest.fixture
def lab_drain(tmp_path: Path) -> Stopping:
    """Stop a service under load, and return what its clients noticed."""
    return Stopping(tmp_path / "lab-drain")


@pytest.fixture
def lab_proxy() -> Generator[Toxiproxy]:
    """Run the fault proxy.

    `create` a proxy before what the service needs, and `add` toxics to it.
    """
    with fault_proxy() as proxy:
        yield proxy
