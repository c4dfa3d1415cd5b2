"""Holds the service that an experiment of Chaos Toolkit works on, and the load on it.

Chaos Toolkit calls actions and probes by name, with nothing but what stands in the YAML; so the one lab of the process
is kept here. As a *control* of the experiment this module builds it before the first probe, and takes it down at
the end, whatever happened.

CHAOS_URL is a service that runs already, CHAOS_COMMAND starts one; CHAOS_READS is what its users ask for, CHAOS_TOKEN who
they are. At the end the control marks the journal as deviated if anything was not as claimed, so that Chaos Toolkit's
own exit code is 1 then, too.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import click

from ..drain.stop import Service, Subject
from ..engine.variables import of_an_experiment
from ..load.gate import percentile
from ..load.mix import read_mix
from .judging import is_ours, judge
from .users import Users

__all__ = [
    "Lab",
    "Mark",
    "Part",
    "after_experiment_control",
    "before_activity_control",
    "cleanup_control",
    "configure",
    "configure_control",
    "current",
]


class Part(Protocol):
    """What can be done to each process of a service that was started here, as to a `Child`."""

    @property
    def is_running(self) -> bool: ...

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that was done, and when, in seconds since the load began."""

    what: str
    at: float


@dataclass
class Lab:
    """A service under load, and what happened to it.

    Attributes:
        load: Its users.
        window: Seconds that a steady state is judged over.
        marks: What was done.
        recoveries: Seconds from the end of each fault until users were well again.
        exit_codes: With which instances ended that were asked to.
        unready: How often an instance said that it was not ready.
        slowest_live: The longest that an instance which ran took for its liveness answer.
    """

    load: Users
    window: float
    parts: Mapping[str, Part] = field(default_factory=dict[str, Part])
    marks: list[Mark] = field(default_factory=list[Mark])
    recoveries: list[float] = field(default_factory=list[float])
    exit_codes: list[int] = field(default_factory=list[int])
    unready: int = 0
    slowest_live: float = 0.0

    @property
    def began(self) -> float | None:
        """When the first fault was caused; None before."""
        return self.marks[0].at if self.marks else None

    @property
    def urls(self) -> Sequence[str]:
        return [self.load.url]

    def named(self, part: str) -> list[Part]:
        """Return the parts of a name.

        Raises:
            RuntimeError: There is none: the service was not started here.
        """
        if not self.parts:
            raise RuntimeError("this service was not started here: bring an action of your own")
        if part not in self.parts:
            raise RuntimeError(f"there is no part {part}: there are {', '.join(self.parts)}")
        return [self.parts[part]]

    def restore(self) -> None:
        """Thaw what is frozen, and start what is down."""
        for part in self.parts.values():
            part.thaw()
            part.start()

    def mark(self, what: str) -> None:
        """Note that something is done now."""
        self.load.fault = what
        self.marks.append(Mark(what, self.load.now()))

    def conclude(self) -> dict[str, object]:
        """Return what is found when the load has ended."""
        return {"findings": None, "findings_verdict": "not asked"}

    def watch(self, stop: threading.Event) -> None:
        """Read each instance's own health, beside the users."""
        while not stop.wait(0.2):
            for url in self.urls:
                self._look(url)

    def _look(self, url: str) -> None:
        began = time.monotonic()
        try:
            live = _status(url, "/healthz/live") == 200
            taken = time.monotonic() - began
            self.unready += _status(url, "/healthz/ready") == 503
        except (OSError, http.client.HTTPException):
            return  # it does not run: that is no slow answer
        if live:
            self.slowest_live = max(self.slowest_live, taken)


def _status(url: str, path: str) -> int:
    """Ask on a new connection, as what restarts or balances does."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    with closing(kind(parts.netloc, timeout=2.0)) as connection:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().status


_LABS: list[tuple[Lab, ExitStack]] = []


def current() -> Lab:
    """Return the lab of this process.

    Raises:
        RuntimeError: There is none: the experiment lacks `controls` with this module.
    """
    if not _LABS:
        raise RuntimeError("no lab: the experiment must name postfacta_lab.chaos.control under `controls`")
    return _LABS[-1][0]


def configure_control(configuration: Mapping[str, Any], experiment: Mapping[str, Any], **_: object) -> None:
    """Build the lab, and let the load run for one window, so that the first probe has something to judge."""
    configure(configuration, build)


def configure(configuration: Mapping[str, Any], make: Callable[[Mapping[str, Any], ExitStack], Lab]) -> None:
    """Build a lab, and let its load run for one window."""
    stack = ExitStack()
    try:
        lab = make(configuration, stack)
        stop = threading.Event()
        watcher = threading.Thread(target=lab.watch, args=(stop,), daemon=True)
        stack.callback(watcher.join, 10.0)
        stack.callback(stop.set)
        watcher.start()
        time.sleep(lab.window + 0.5)  # noqa: TID251 - Chaos Toolkit has no loop
    except BaseException as error:
        # Chaos Toolkit goes on without the control, and says nothing.
        click.echo(f"chaos: {error}", err=True)
        _write({"failure": str(error) or repr(error)})
        stack.close()
        raise
    _LABS.append((lab, stack))


def build(configuration: Mapping[str, Any], stack: ExitStack) -> Lab:
    """Put users before a service that runs, or that is started here."""
    settings = of_an_experiment()
    rate, window = float(configuration.get("rate", 50.0)), float(configuration.get("window", 10.0))
    reads = tuple(settings.get("READS", "").split())
    if not reads:
        raise ValueError('name what users ask for: CHAOS_READS="/invoices/7 /invoices", or --path')
    url, parts = settings.get("URL", ""), dict[str, Part]()
    if command := settings.get("COMMAND"):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lab-chaos-")))
        service = Service(command=command, asks=read_mix(reads, None))
        subject = Subject(service, folder)
        stack.callback(subject.kill)
        asyncio.run(subject.serve())
        url, parts = f"http://127.0.0.1:{subject.port}", {"service": subject}
    if not url:
        raise ValueError("say where the service is: CHAOS_URL or --url, or a command that starts it")
    users = Users(url, settings.get("TOKEN", ""), rate, reads=reads)
    return Lab(stack.enter_context(users), window, parts)


def before_activity_control(context: Mapping[str, Any], **_: object) -> None:
    """Mark what an experiment does by itself; our own actions mark their moments themselves."""
    provider: Mapping[str, Any] = context.get("provider", {})
    if _LABS and context.get("type") == "action" and not is_ours(str(provider.get("module", ""))):
        current().mark(str(context.get("name", "an action")))


def after_experiment_control(state: MutableMapping[str, Any], **_: object) -> None:
    """Mark the journal as deviated unless all was measured, and held."""
    users = _noted(current()) if _LABS else {"failure": "the lab was not built"}
    found = judge(state, users, watched=True)
    if found.reasons:
        state["deviated"] = True
        click.echo("\n".join(f"chaos: {reason}" for reason in found.reasons), err=True)


def cleanup_control() -> None:
    """Stop the load, judge what was written, store how users fared, and end all processes."""
    while _LABS:
        lab, stack = _LABS.pop()
        try:
            lab.load.stop()
            _write({**_noted(lab), **lab.conclude(), "by_second": _by_second(lab)})
        finally:
            stack.close()


def _write(data: Mapping[str, object]) -> None:
    if target := of_an_experiment().get("RESULT"):
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
        "errors": dict(Counter(sample.error for sample in samples if sample.error)),
    }


def _by_second(lab: Lab) -> list[tuple[int, int, int, float]]:
    """Return for each second: requests, failures, the longest latency."""
    seconds: dict[int, tuple[int, int, float]] = {}
    for sample in lab.load.meter.samples:
        count, failed, longest = seconds.get(int(sample.intended), (0, 0, 0.0))
        seconds[int(sample.intended)] = (count + 1, failed + bool(sample.error), max(longest, sample.latency))
    return [(second, *seconds[second]) for second in sorted(seconds)]
