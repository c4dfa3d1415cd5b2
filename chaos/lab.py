"""Holds the stack of PostFacta that an experiment works on.

The control of `postfacta_lab.chaos`, with our own processes.

With CHAOS_URL it works on a PostFacta that runs already; CHAOS_WRITES=yes lets its users record
incidents.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from chaos.failover import FailoverStack
from chaos.history import judge
from chaos.load import Load
from chaos.reading import read_all
from chaos.stack import Stack, prepare
from postfacta_lab.chaos.control import (
    Lab,
    Part,
    after_experiment_control,
    before_activity_control,
    cleanup_control,
    configure,
    current,
)
from postfacta_lab.durability import Findings

__all__ = [
    "StackLab",
    "after_experiment_control",
    "before_activity_control",
    "cleanup_control",
    "configure_control",
    "ours",
]


@dataclass(kw_only=True)
class StackLab(Lab):
    """PostFacta under load.

    Attributes:
        writers: Its users; some of them write.
        stack: Its processes; None if it was not started here.
        exit_codes: With which instances ended that were asked to.
    """

    writers: Load
    stack: Stack | None = None
    exit_codes: list[int] = field(default_factory=list[int])

    @property
    def urls(self) -> Sequence[str]:
        """Where the instances listen."""
        return self.stack.urls if self.stack is not None else [self.load.url]

    def named(self, part: str) -> list[Part]:
        """Return the parts of a name; `instances` means all of them."""
        if part == "instances":
            return list(self.own_stack().instances)
        return super().named(part)

    def restore(self) -> None:
        """Thaw and start all, and wait until every instance is ready."""
        if self.stack is not None:
            self.stack.restore()

    def own_stack(self) -> Stack:
        """Return the processes.

        Raises:
            RuntimeError: They are not ours.
        """
        if self.stack is None:
            raise RuntimeError("this service was not started here: bring an action of your own")
        return self.stack

    def judge(self) -> Findings:
        """Read everything back, and compare it with the answers to writers so far."""
        known = tuple(
            self.writers.history
        )  # before the reading: what is acknowledged during it may be missing
        reading = read_all(self.load.url, self.load.token)
        titles = {write.subject for write in known}
        ours = [found for found in reading.stored if found.subject in titles]
        return judge(known, ours, minimum=1, orphans=reading.orphans)

    def conclude(self) -> dict[str, object]:
        """Read back what was written, and judge it."""
        noted = super().conclude()
        findings = None
        failure = ""
        try:
            findings = self.judge() if self.writers.writes else None
        except (httpx2.HTTPError, RuntimeError, KeyError, ValueError) as error:
            failure = f"it could not be read back: {error!r}"
        return {
            **noted,
            "findings": None if findings is None else findings.as_json(),
            "findings_verdict": failure or (findings.verdict if findings else "not asked"),
        }


def ours() -> StackLab:
    """Return the lab of this process.

    Raises:
        RuntimeError: It is not one of PostFacta.
    """
    lab = current()
    if not isinstance(lab, StackLab):
        raise RuntimeError(  # noqa: TRY004 - not a type's fault
            "this needs PostFacta: the experiment must name chaos.lab under `controls`"
        )
    return lab


def configure_control(
    configuration: Mapping[str, Any], experiment: Mapping[str, Any], **_: object
) -> None:
    """Build the lab."""
    configure(configuration, _build)


def _build(configuration: Mapping[str, Any], closing: ExitStack) -> Lab:
    rate = float(configuration.get("rate", 50.0))
    window = float(configuration.get("window", 10.0))
    if url := os.environ.get("CHAOS_URL"):
        reads = tuple(os.environ.get("CHAOS_READS", "").split())
        if not reads:
            raise ValueError(
                'name what users ask for: CHAOS_READS="/invoices/7 /invoices", or --path'
            )
        writes = os.environ.get("CHAOS_WRITES", "no") == "yes"
        load = Load(url, os.environ.get("CHAOS_TOKEN", ""), rate, reads=reads, writes=writes)
        return StackLab(closing.enter_context(load), window, writers=load)
    folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="postfacta-chaos-")))
    folder.chmod(0o755)  # PostgreSQL may run as another user
    made = os.environ.get("CHAOS_TEMPLATE")
    template = Path(made) if made else prepare(folder / "template")
    kind = FailoverStack if configuration.get("standby") else Stack
    retries = int(configuration.get("retries", 1))
    delay = configuration.get("drain_delay")
    environment = {} if delay is None else {"POSTFACTA_DRAIN_DELAY": str(delay)}
    stack = closing.enter_context(
        kind(folder / "stack", template, proxy=True, retries=retries, environment=environment)
    )
    load = closing.enter_context(Load(stack.url, stack.token, rate))
    return StackLab(load, window, stack.parts, writers=load, stack=stack)
