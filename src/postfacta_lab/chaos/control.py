"""Holds the one lab of the process.

The service that an experiment of Chaos Toolkit works on, and its users.

As a *control* of the experiment this module builds it before the first probe, and takes it down at
the end, whatever happened. CHAOS_URL is a service that runs already, CHAOS_COMMAND starts one;
CHAOS_READS is what its users ask for, CHAOS_TOKEN who they are.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import cycle
from math import inf
from pathlib import Path
from typing import Any, Protocol, Self

import click

from ..drain.stop import Service, Subject
from ..engine.values import Fields
from ..engine.variables import of_an_experiment
from ..load.gate import percentile
from ..load.generator import Generator, Meter, Target, moments
from ..load.mix import Ask, read_mix
from .judging import is_ours, judge

_LONGEST = 3600.0  # seconds; an experiment that lasts longer is stuck
# Seconds that no user should wait; a request in flight for longer counts though it has no end yet.
SLOW = 0.5


@dataclass(frozen=True, slots=True)
class Window:
    """How users fared in some seconds."""

    count: int
    failed: int
    p99: float
    longest: float

    @property
    def error_share(self) -> float:
        """The share that failed; all, if no request was served."""
        return self.failed / self.count if self.count else 1.0


@dataclass(slots=True)
class Users:
    """Requests at a rate, from a thread of its own, for as long as the block lasts.

    Open loop: arrivals come from a schedule. Half of them open a connection of their own.
    """

    url: str
    token: str  # who they are; empty for no one
    rate: float = 50.0  # arrivals a second
    reads: Sequence[str] = ("/",)  # what is asked for in turn
    fault: str = ""  # what was done last; set by the code that does it
    patience: float = 15.0  # seconds
    meter: Meter = field(default_factory=lambda: Meter(cap=1000))
    _began: float = 0.0
    _ends: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()),
            daemon=True,
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more, and wait until every request has an end; again changes nothing."""
        self._ends.set()
        self._thread.join(self.patience + 45.0)

    def now(self) -> float:
        return time.perf_counter() - self._began

    def since(self, first: float, last: float = inf) -> Window:
        """Return the figures of requests that were meant to begin between two moments.

        One in flight counts with the time it has waited, once that is long.
        """
        now = self.now()
        # Copies: the thread of the users goes on.
        samples = tuple(self.meter.samples)
        waiting_since = tuple(self.meter.waiting)
        drops = tuple(self.meter.dropped)
        ended = [sample for sample in samples if first <= sample.intended < last]
        waits = [now - at for at in waiting_since if first <= at < last]
        dropped = sum(first <= at < last for at in drops)
        errors = sum(bool(sample.error) for sample in ended)
        latencies = [sample.latency for sample in ended]
        latencies += [wait for wait in waits if wait > SLOW]
        return Window(
            count=len(latencies) + dropped,
            failed=errors + dropped,
            p99=percentile(latencies, 0.99),
            longest=max(latencies, default=0.0),
        )

    def is_well(self, since: float) -> bool:
        """Return whether users have been well for a second after a moment.

        None failed, and none waited long.

        The last half of a second is left out: who began there may still be waiting.
        """
        last = self.now() - SLOW
        second = self.since(last - 1.0, last)
        enough = last - since >= 1.0 and second.count >= self.rate / 2
        return enough and not second.failed and second.longest < SLOW

    def _moments(self) -> Iterator[float]:
        for moment in moments("constant", self.rate, _LONGEST):
            if self._ends.is_set():
                return
            yield moment

    async def _run(self) -> None:
        headers: dict[str, str] = {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        generator = self.generator(Target(self.url, headers, alternating=True))
        try:
            await generator.send(self._moments(), self.asks())
            await generator.settle()
        finally:
            await generator.close()

    def generator(self, target: Target) -> Generator:
        return Generator(target, self.meter, patience=self.patience, zero=self._began)

    def asks(self) -> Iterator[Ask]:
        """Yield what is asked for in turn, without an end."""
        return cycle(read_mix(self.reads, None))


class Part(Protocol):
    """What can be done to each process of a service that was started here, as to a `Child`."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


@dataclass
class Lab:
    """A service under load, and what happened to it."""

    load: Users
    window: float  # seconds that a steady state is judged over
    parts: Mapping[str, Part] = field(default_factory=dict[str, Part])
    # What was done, and when.
    marks: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    # Seconds, from the end of each fault.
    recoveries: list[float] = field(default_factory=list[float])
    watchers: list[Users] = field(default_factory=list[Users])  # of each instance's own health

    @property
    def began(self) -> float:
        """When the first fault was caused; later than anything if none was."""
        return self.marks[0][1] if self.marks else inf

    @property
    def latest(self) -> float:
        return self.marks[-1][1] if self.marks else 0.0

    @property
    def urls(self) -> Sequence[str]:
        return [self.load.url]

    def recent(self) -> Window:
        return self.load.since(self.load.now() - self.window)

    def named(self, part: str) -> list[Part]:
        """Return the parts of a name, or raise `RuntimeError`."""
        if part not in self.parts:
            names = ", ".join(self.parts)
            if not names:
                names = "none, for it was not started here: bring an action of your own"
            raise RuntimeError(f"this service has no part {part}; it has {names}")
        return [self.parts[part]]

    def restore(self) -> None:
        for part in self.parts.values():
            part.thaw()
            part.start()

    def mark(self, description: str) -> None:
        self.load.fault = description
        self.marks.append((description, self.load.now()))

    def conclude(self) -> dict[str, object]:
        """Stop the load, and return how users fared, for the judge and the report."""
        self.load.stop()
        samples = self.load.meter.samples
        elapsed = int(self.load.now()) + 1
        seconds = {second: self.load.since(second, second + 1) for second in range(elapsed)}
        delays = [sample.began - sample.intended for sample in samples]
        return {
            "users": asdict(self.load.since(0.0)),
            "ended": len(samples),
            "late": percentile(delays, 0.95),
            "marks": [{"what": description, "at": at} for description, at in self.marks],
            "recoveries": [round(value, 3) for value in self.recoveries],
            "errors": Counter(sample.error for sample in samples if sample.error),
            "by_second": [
                (at, window.count, window.failed, window.longest)
                for at, window in seconds.items()
                if window.count
            ],
        }

    def answers(self, probe: str, error: str = "") -> list[float]:
        """Return the seconds of the answers to a probe, good ones or those of a status."""
        route = f"GET /healthz/{probe}"
        return [
            sample.ended - sample.began
            for watcher in self.watchers
            for sample in tuple(watcher.meter.samples)
            if sample.route == route and sample.error == error
        ]


_LABS: list[tuple[Lab, ExitStack]] = []
_FAILURES: list[str] = []  # why there is none


def current() -> Lab:
    """Return the lab of this process, or raise `RuntimeError`."""
    if not _LABS:
        raise RuntimeError(
            "no lab: the experiment must name postfacta_lab.chaos.control under `controls`"
        )
    return _LABS[-1][0]


def configure_control(configuration: Fields, experiment: Fields, **_: object) -> None:
    configure(configuration, _build)


def configure(configuration: Fields, make: Callable[[Fields, ExitStack], Lab]) -> None:
    """Build a lab, and let its load run for one window, which the first probe judges."""
    stack = ExitStack()
    try:
        lab = make(configuration, stack)
        for url in lab.urls:
            watcher = Users(
                url,
                token="",
                rate=10.0,
                reads=("/healthz/live", "/healthz/ready"),
                patience=2.0,
            )
            lab.watchers.append(stack.enter_context(watcher))
        time.sleep(lab.window + 0.5)  # noqa: TID251 - Chaos Toolkit has no loop
    except BaseException as error:
        # Chaos Toolkit goes on without it, and says nothing.
        click.echo(f"chaos: {error}", err=True)
        _FAILURES.append(str(error) or repr(error))
        stack.close()
        raise
    _LABS.append((lab, stack))


def _build(configuration: Fields, stack: ExitStack) -> Lab:
    """Put users before a service that runs, or that is started here."""
    settings = of_an_experiment()
    reads = settings.get("READS", "").split()
    url = settings.get("URL", "")
    parts = dict[str, Part]()
    asks = read_mix(reads, None)
    if command := settings.get("COMMAND"):
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lab-chaos-"))
        service = Service(command=command, asks=asks)
        subject = Subject(service, Path(folder))
        stack.callback(subject.kill)
        asyncio.run(subject.serve())
        url = f"http://127.0.0.1:{subject.port}"
        parts = {"service": subject}
    if not url:
        raise ValueError(
            "say where the service is: CHAOS_URL or --url, or a command that starts it"
        )
    rate = float(configuration.get("rate", 50.0))
    window = float(configuration.get("window", 10.0))
    users = Users(url, settings.get("TOKEN", ""), rate, reads=reads)
    stack.enter_context(users)
    return Lab(users, window, parts)


def before_activity_control(context: Fields, **_: object) -> None:
    """Mark what an experiment does by itself; our own actions mark their moments themselves."""
    if not _LABS or context.get("type") != "action":
        return
    provider: Fields = context.get("provider", {})
    module = str(provider.get("module", ""))
    if not is_ours(module):
        name = str(context.get("name", "an action"))
        current().mark(name)


def after_experiment_control(state: MutableMapping[str, Any], **_: object) -> None:
    """Put into the journal how users fared; mark it as deviated unless all was measured, and held.

    Then Chaos Toolkit's own exit code is 1, too.
    """
    users: dict[str, object] = {"failure": ", ".join(_FAILURES)}
    if _LABS:
        users = current().conclude()
    state["users"] = users
    _verdict, reasons = judge(state, users, watched=True)
    if reasons:
        state["deviated"] = True
    for reason in reasons:
        click.echo(f"chaos: {reason}", err=True)


def cleanup_control() -> None:
    while _LABS:
        _, stack = _LABS.pop()
        stack.close()
