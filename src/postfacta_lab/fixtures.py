"""Fixtures of pytest that start a service, load it, stop it, or put a fault proxy before what it needs.

Name them in `conftest.py`: `pytest_plugins = ["postfacta_lab.fixtures"]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from .drain.result import Result
from .drain.stop import Service, Subject, first_answers, stop
from .engine.variables import credentials, refuse_strangers
from .load.gate import Limits
from .load.generator import Target
from .load.mix import read_mix
from .load.profiles import PROFILES, Plan, run_profile
from .load.report import Report
from .proxy import Toxiproxy, fault_proxy

__all__ = ["Loading", "Starting", "Stopping", "lab_drain", "lab_load", "lab_proxy", "lab_service"]


class Starting(Protocol):
    """What `lab_service` gives."""

    def __call__(self, command: str, *, path: str = "/", start: float = 30.0) -> str:
        """Start a service, wait until it answers a path with 200 to 299, and return its address.

        Args:
            command: Starts it in the foreground; ``{port}`` stands for its port, which is in PORT too.
            path: Asked for by GET.
            start: Seconds until the first good answer, at most.
        """
        ...


class Loading(Protocol):
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
        """Load a service at a steady rate, as `postfacta lab load` does; `report.verdict` is 0 if it held."""
        ...


class Stopping(Protocol):
    """What `lab_drain` gives."""

    def __call__(
        self, command: str, *, paths: Sequence[str] = (), mix: Path | None = None, ready: str = ""
    ) -> Result:
        """Stop a service under load, as `postfacta lab drain` does; `result.verdict` is 0 if it held."""
        ...


@pytest.fixture
def lab_service(tmp_path: Path) -> Generator[Starting]:
    """Start services, each as a process that ends with the test."""
    with ExitStack() as stack:

        def start(command: str, *, path: str = "/", start: float = 30.0) -> str:
            service = Service(command=command, asks=read_mix([path], None), start=start)
            subject = Subject(service, tmp_path / "lab")
            stack.callback(subject.kill)
            subject.start()
            if flaw := asyncio.run(first_answers(subject, service)):
                pytest.fail(f"{command}: {flaw[1]}\n{subject.words[-2000:]}", pytrace=False)
            return f"http://127.0.0.1:{subject.port}"

        yield start


@pytest.fixture
def lab_proxy() -> Generator[Toxiproxy]:
    """Run the fault proxy: `create` a proxy before what the service needs, and `add` toxics to it."""
    with fault_proxy() as proxy:
        yield proxy


@pytest.fixture
def lab_load() -> Loading:
    """Load a service, and return the report."""

    def load(
        url: str,
        *,
        paths: Sequence[str] = (),
        mix: Path | None = None,
        rate: float = 20.0,
        seconds: float = 10.0,
        limits: Limits | None = None,
    ) -> Report:
        refuse_strangers(url)
        plan = Plan(
            target=Target(url, credentials()),
            asks=read_mix(paths, mix),
            rate=rate,
            seconds=seconds,
            limits=limits or Limits(),
        )
        parts = asyncio.run(run_profile(PROFILES["expected"], plan))
        return Report(parts, plan.limits, {"url": url, "rate": f"{rate:g}", "seconds": f"{seconds:g}"})

    return load


@pytest.fixture
def lab_drain(tmp_path: Path) -> Stopping:
    """Stop a service under load, and return what its clients noticed."""

    def drain(command: str, *, paths: Sequence[str] = (), mix: Path | None = None, ready: str = "") -> Result:
        service = Service(command=command, asks=read_mix(paths, mix), ready=ready)
        return asyncio.run(stop(service, tmp_path / "lab-drain"))

    return drain
