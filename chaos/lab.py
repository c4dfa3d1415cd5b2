"""Holds the service that an experiment of Chaos Toolkit works on, and the load on it.

Chaos Toolkit calls actions and probes by name, with nothing but what stands in the YAML; so the one lab of the process
is kept here. As a *control* of the experiment this module builds it before the first probe, and takes it down at
the end, whatever happened.

With CHAOS_URL and CHAOS_READS (and CHAOS_TOKEN) it works on a service that runs already: then the actions that need our
own processes say so, and an experiment brings its own. At the end the control marks the journal as deviated if
anything was not as claimed, so that Chaos Toolkit's own exit code is 1 then, too.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, MutableMapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from chaos.failover import FailoverStack
from chaos.history import Findings, judge
from chaos.judging import judge as judge_experiment
from chaos.load import Load
from chaos.reading import read_all
from chaos.stack import Stack, prepare
from postfacta_lab.load.gate import percentile

__all__ = [
    "Lab",
    "Mark",
    "after_experiment_control",
    "before_activity_control",
    "cleanup_control",
    "configure_control",
    "current",
]


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that was done, and when, in seconds since the load began."""

    what: str
    at: float


@dataclass(slots=True)
class Lab:
    """A service under load, and what happened to it.

    Attributes:
        load: Its users.
        stack: Its processes; None if it was not started here.
        window: Seconds that a steady state is judged over.
        marks: What was done.
        recoveries: Seconds from the end of each fault until users were well again.
        exit_codes: With which instances ended that were asked to.
        ready: When an instance said that it was (not) ready, since the load began.
        slowest_live: The longest that an instance which ran took for its liveness answer.
    """

    load: Load
    window: float
    stack: Stack | None = None
    marks: list[Mark] = field(default_factory=list[Mark])
    recoveries: list[float] = field(default_factory=list[float])
    exit_codes: list[int] = field(default_factory=list[int])
    unready: int = 0
    slowest_live: float = 0.0
    findings: Findings | None = None

    @property
    def began(self) -> float | None:
        """When the first fault was caused; None before."""
        return self.marks[0].at if self.marks else None

    def own_stack(self) -> Stack:
        """Return the processes.

        Raises:
            RuntimeError: They are not ours.
        """
        if self.stack is None:
            raise RuntimeError("this service was not started here: bring an action of your own")
        return self.stack

    def mark(self, what: str) -> None:
        """Note that something is done now."""
        self.load.fault = what
        self.marks.append(Mark(what, self.load.now()))

    def judge(self) -> Findings:
        """Read everything back, and compare it with the answers to writers so far."""
        known = tuple(self.load.history)  # before the reading: what is acknowledged during it may be missing
        reading = read_all(self.load.url, self.load.token)
        titles = {write.incident for write in known}
        ours = [found for found in reading.stored if found.incident in titles]
        return judge(known, ours, minimum=1, orphans=reading.orphans)

    def watch(self, stop: threading.Event) -> None:
        """Read each instance's own health, beside the users."""
        urls = self.stack.urls if self.stack is not None else [self.load.url]
        headers = {"Connection": "close"}  # what restarts or balances connects anew each time
        with httpx2.Client(timeout=2.0, headers=headers) as client:
            while not stop.wait(0.2):
                for url in urls:
                    self._look(client, url)

    def _look(self, client: httpx2.Client, url: str) -> None:
        began = time.monotonic()
        try:
            live = client.get(f"{url}/healthz/live").status_code == 200
            taken = time.monotonic() - began
            self.unready += client.get(f"{url}/healthz/ready").status_code == 503
        except httpx2.ConnectError:
            return  # it does not run: that is no slow answer
        except httpx2.TransportError:
            return
        if live:
            self.slowest_live = max(self.slowest_live, taken)


_LABS: list[tuple[Lab, ExitStack]] = []


def current() -> Lab:
    """Return the lab of this process.

    Raises:
        RuntimeError: There is none: the experiment lacks `controls` with this module.
    """
    if not _LABS:
        raise RuntimeError("no lab: the experiment must name chaos.lab under `controls`")
    return _LABS[-1][0]


def configure_control(configuration: Mapping[str, Any], experiment: Mapping[str, Any], **_: object) -> None:
    """Build the lab, and let the load run for one window, so that the first probe has something to judge."""
    closing = ExitStack()
    try:
        lab = _build(configuration, closing)
        stop = threading.Event()
        watcher = threading.Thread(target=lab.watch, args=(stop,), daemon=True)
        closing.callback(watcher.join, 10.0)
        closing.callback(stop.set)
        watcher.start()
        time.sleep(lab.window + 0.5)  # noqa: TID251 - Chaos Toolkit has no loop
    except BaseException as error:
        # Chaos Toolkit goes on without the control, and says nothing.
        print(f"chaos.lab: {error}", file=sys.stderr)  # noqa: T201 - its job
        _write({"failure": str(error) or repr(error)})
        closing.close()
        raise
    _LABS.append((lab, closing))


def before_activity_control(context: Mapping[str, Any], **_: object) -> None:
    """Mark what an experiment does by itself; our own actions mark their moments themselves."""
    provider: Mapping[str, Any] = context.get("provider", {})
    ours = str(provider.get("module", "")).startswith("chaos.")
    if _LABS and context.get("type") == "action" and not ours:
        current().mark(str(context.get("name", "an action")))


def after_experiment_control(state: MutableMapping[str, Any], **_: object) -> None:
    """Mark the journal as deviated unless all was measured, and held."""
    users = _noted(current()) if _LABS else {"failure": "the lab was not built"}
    found = judge_experiment(state, users, watched=True)
    if found.reasons:
        state["deviated"] = True
        print("\n".join(f"chaos.lab: {reason}" for reason in found.reasons), file=sys.stderr)  # noqa: T201 - its job


def cleanup_control() -> None:
    """Stop the load, judge what was written, store how users fared, and end all processes."""
    while _LABS:
        lab, closing = _LABS.pop()
        try:
            lab.load.stop()
            _store(lab)
        finally:
            closing.close()


def _build(configuration: Mapping[str, Any], closing: ExitStack) -> Lab:
    rate, window = float(configuration.get("rate", 50.0)), float(configuration.get("window", 10.0))
    if url := os.environ.get("CHAOS_URL"):
        reads = tuple(os.environ.get("CHAOS_READS", "").split())
        if not reads:
            raise ValueError('name what users ask for: CHAOS_READS="/invoices/7 /invoices", or --path')
        writes = os.environ.get("CHAOS_WRITES", "no") == "yes"
        load = Load(url, os.environ.get("CHAOS_TOKEN", ""), rate, reads=reads, writes=writes)
        return Lab(closing.enter_context(load), window)
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
    return Lab(closing.enter_context(Load(stack.url, stack.token, rate)), window, stack)


def _store(lab: Lab) -> None:
    try:
        lab.findings = lab.judge() if lab.load.writes else None
        failure = ""
    except (httpx2.HTTPError, RuntimeError, KeyError, ValueError) as error:
        failure = f"it could not be read back: {error!r}"
    _write(
        {
            **_noted(lab),
            "findings": None if lab.findings is None else lab.findings.as_json(),
            "findings_verdict": failure or (lab.findings.verdict if lab.findings else "not asked"),
            "by_second": _by_second(lab),
        }
    )


def _write(data: Mapping[str, object]) -> None:
    if target := os.environ.get("CHAOS_RESULT"):
        Path(target).write_text(json.dumps(data, indent=1) + "\n")


def _noted(lab: Lab) -> dict[str, object]:
    samples = tuple(lab.load.meter.samples)
    return {
        "users": asdict(lab.load.since(0.0)),
        "ended": len(samples),
        "late": percentile([sample.began - sample.intended for sample in samples], 0.95),
        "marks": [asdict(mark) for mark in lab.marks],
        "recoveries": [round(value, 3) for value in lab.recoveries],
        "exit_codes": lab.exit_codes,
        "unready_answers": lab.unready,
        "slowest_live": round(lab.slowest_live, 4),
        "errors": _errors(lab),
    }


def _errors(lab: Lab) -> dict[str, int]:
    found: dict[str, int] = {}
    for sample in lab.load.meter.samples:
        if sample.error:
            found[sample.error] = found.get(sample.error, 0) + 1
    return found


def _by_second(lab: Lab) -> list[tuple[int, int, int, float]]:
    """Return for each second: requests, failures, the longest latency."""
    seconds: dict[int, tuple[int, int, float]] = {}
    for sample in lab.load.meter.samples:
        count, failed, longest = seconds.get(int(sample.intended), (0, 0, 0.0))
        seconds[int(sample.intended)] = (
            count + 1,
            failed + bool(sample.error),
            max(longest, sample.latency),
        )
    return [(second, *seconds[second]) for second in sorted(seconds)]
