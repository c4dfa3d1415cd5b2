"""Runs the day: a calm time in which no notification may be sent, then one fault after the other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import httpx2

from chaos import runbooks
from chaos.gameday.faults import FAULTS, CannotBeCausedError
from chaos.gameday.judge import Command, Course, Episode, Result, judge, noise, not_run
from chaos.gameday.keeper import Keeper, Kept
from chaos.gameday.rows import Row
from chaos.gameday.site import Site
from chaos.gameday.watch import Watch
from chaos.prometheus import Sample
from chaos.sink import Arrival, Sink
from postfacta_lab.engine.processes import wait_until

__all__ = ["Calm", "Day", "Options", "Seconds"]

RUNBOOKS = Path(__file__).parent.parent.parent / "docs/runbooks"
"""Where alerts lead to."""

_SETTLE = 330.0  # seconds in production: the longest window of a quick burn, and two scrapes
_LEAST_SETTLE = 6.0
_DETECT, _RESOLVE = 1500.0, 2400.0  # seconds in production that an alert may take, at most
_PATIENT = 5400.0  # one that waits for an hour
_SLACK = 60.0  # seconds of the service's own, such as three failed health checks
_AGE = 2700.0  # seconds; the load ends after an hour


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the day is run.

    Attributes:
        compression: How much shorter the waits of alerting are than in production.
        calm: Seconds of the calm time at the start, as they are.
    """

    compression: int = 10
    calm: float = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calm:
    """The time in which nothing was done.

    Attributes:
        seconds: How long it was.
        noise: What fired or was sent in it.
        watchdog: How often the sign of life came.
        troubles: Rules that could not be evaluated, and objectives that were missed all the same.
    """

    seconds: float
    noise: tuple[str, ...]
    watchdog: int
    troubles: tuple[str, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return what was not as it should be."""
        dead = () if self.watchdog else ("the dead man's switch got no sign of life",)
        return (*(f"noise: {name}" for name in self.noise), *self.troubles, *dead)

    def as_json(self) -> dict[str, object]:
        """Return it as plain data."""
        return {
            **asdict(self),
            "verdict": "fail" if self.reasons else "pass",
            "reasons": list(self.reasons),
        }


@dataclass(slots=True)
class Seconds:
    """Requests and failures in each second of the day, kept beyond the life of each load."""

    counts: dict[int, list[int]] = field(default_factory=dict[int, list[int]])

    def add(self, site: Site, began: float) -> None:
        """Take over what a load has measured.

        `began` is the start of the day by `time.monotonic`.
        """
        offset = time.monotonic() - site.load.now() - began
        for sample in tuple(site.load.meter.samples):
            second = self.counts.setdefault(int(sample.intended + offset), [0, 0])
            second[0] += 1
            second[1] += bool(sample.error)


class Day:
    """One game day; a context manager.

    Args:
        folder: Where everything is written; must be open to all users.
        template: What `chaos.stack.prepare` made.
        options: How it is run.
    """

    def __init__(self, folder: Path, template: Path, *, options: Options) -> None:
        self._folder = folder
        self._template = template
        self._options = options
        self._began = time.monotonic()
        self._date = datetime.now(UTC)  # noqa: TID251 - the incident's, in wall time
        self.watch = Watch(self._began)
        self.sink = Sink()
        self.seconds = Seconds()
        self.arrivals: list[Arrival] = []
        self._closing = ExitStack()
        self._stage = ExitStack()
        self._keeper = Keeper(folder, template)
        self._site: Site | None = None
        self._past: list[Sample] = []
        self._sites = 0

    def __enter__(self) -> Self:
        self._closing.enter_context(self.sink)
        self._closing.enter_context(self.watch)
        self._closing.enter_context(self._keeper)
        self._closing.callback(self._leave)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def now(self) -> float:
        """Return the seconds since the start."""
        return self.watch.now()

    def be_calm(self) -> Calm:
        """Run the users alone; no notification may be sent.

        First everything runs for a while, unjudged: that becomes the past of each Prometheus from
        then on.
        """
        site = self._enter(self._options.compression)
        warm = max(_LEAST_SETTLE, _SETTLE / self._options.compression)
        self._pause(warm)
        self._wait(lambda: not site.bad_slices(), warm + _SLACK)
        restless = site.bad_slices()
        self._past = [] if restless else site.slices(warm)
        self._renew(site)
        self._pause(warm)
        began = self.now()
        self._pause(self._options.calm)
        ended = self.now()
        return Calm(
            seconds=round(ended - began, 1),
            noise=noise(self.watch.episodes(since=began), self._told(began, ended)),
            watchdog=len([at for at in self.sink.posts("deadman") if at >= self._began + began]),
            troubles=(
                *site.prometheus.troubles(),
                *(
                    f"the objective {name} was not met before anything was done"
                    for name in restless
                ),
            ),
        )

    def run(self, row: Row) -> Result:
        """Cause one fault, and judge what alerts did about it."""
        if "root" in row.needs and os.geteuid() != 0:
            return not_run(row, "needs root, for a disk of the database's own")
        compression = max(row.compress, self._options.compression)
        site = self._enter(compression, settings=row.settings, small_disk="small disk" in row.needs)
        began = self.now()
        self._renew(site)
        self._pause(max(_LEAST_SETTLE, _SETTLE / compression))
        commands: list[Command] = []
        try:
            course = self._fault(site, row, began, commands)
        except CannotBeCausedError as error:
            return not_run(row, str(error))
        except (RuntimeError, OSError, httpx2.HTTPError) as error:  # TimeoutError is an OSError
            self._leave()
            reason = f"the fault or the repair went wrong: {error}"
            return Result(name=row.name, what=row.what, verdict="fail", reasons=(reason,))
        episodes = self.watch.episodes(since=began)
        result = judge(
            row,
            course,
            episodes=episodes,
            arrivals=self._told(began, course.ended),
            runbooks={path.name for path in RUNBOOKS.glob("*.md")},
            compression=compression,
            commands=commands,
            users=site.users(self._began + course.caused, self._began + course.mended),
        )
        if self._active(row):
            self._leave()  # What still fires must not be taken for the next fault's.
        return result

    def _renew(self, site: Site) -> None:
        self.watch.look_at(None)
        site.renew(self._past, spacing=self._options.compression / site.compression)
        self.watch.look_at(site.prometheus.alerts)

    def _fault(self, site: Site, row: Row, began: float, commands: list[Command]) -> Course:
        caused = self.now()
        with FAULTS[row.fault](site):
            limit = (_PATIENT if row.compress > 1 else _DETECT) / site.compression + _SLACK
            self._wait(lambda: self._all_told(row, caused), limit)
            commands += [
                _follow(site, one, during=True) for one in _blocks(row, "diagnose", "verify")
            ]
        mended = self.now()
        site.make_well()
        limit = _RESOLVE / site.compression + _SLACK
        self._wait(lambda: not self._active(row) and self._all_resolved(row, caused), limit)
        ended = self.now()
        commands += [self._verified(site, one) for one in _blocks(row, "verify")]
        return Course(began=began, caused=caused, mended=mended, ended=ended)

    def _verified(self, site: Site, block: runbooks.Block) -> Command:
        """Run what says that all is well until it does, as a runbook tells people to.

        A quieter tier ends later.
        """
        commands: list[Command] = []

        def is_well() -> bool:
            commands.append(_follow(site, block, during=False))
            return not commands[-1].code

        self._wait(is_well, _RESOLVE / site.compression)
        return commands[-1]

    def _wait(self, true: Callable[[], bool], limit: float) -> None:
        """Wait for something that the judge will miss, if it does not come."""
        try:
            wait_until(true, "it", within=limit, every=0.2)
        except TimeoutError:
            return

    def _all_told(self, row: Row, since: float) -> bool:
        told = [one for one in self._told(since, self.now()) if one.status == "firing"]
        return all(any(it.matches(one.labels) for one in told) for it in row.expect)

    def _all_resolved(self, row: Row, since: float) -> bool:
        told = self._told(since, self.now())
        rang = [it for it in row.expect if any(it.matches(one.labels) for one in told)]
        over = [one for one in told if one.status == "resolved"]
        return all(any(it.matches(one.labels) for one in over) for it in rang)

    def _active(self, row: Row) -> list[Episode]:
        """List what must end before the next fault.

        An allowed ticket need not: a spent budget stays spent for long.
        """
        return [
            one
            for one in self.watch.present()
            if one.severity == "page" or any(it.matches(one.labels) for it in row.expect)
        ]

    def _told(self, first: float, last: float) -> list[Arrival]:
        every = [replace(one, at=one.at - self._began) for one in self.sink.arrivals()]
        return [one for one in every if first <= one.at <= last]

    def conclude(self, results: Sequence[Result]) -> Kept:
        """Leave an incident behind: what was done, and every alert that was sent."""
        return self._keeper.conclude(results, self._date)

    def told(self) -> list[Arrival]:
        """List all notifications, in seconds since the start; without the sign of life."""
        return [one for one in self._told(0.0, self.now()) if one.receiver != "deadman"]

    def _enter(
        self,
        compression: int,
        *,
        settings: Sequence[tuple[str, str]] = (),
        small_disk: bool = False,
    ) -> Site:
        wanted = (compression, tuple(settings), small_disk)
        site = self._site
        if site is not None and site.load.now() < _AGE:  # noqa: SIM102 - two questions
            if (site.compression, site.settings, site.small_disk) == wanted:
                return site
        self._leave()
        self._sites += 1
        site = Site(
            self._folder / f"site{self._sites}",
            self._template,
            sink=self.sink,
            keeper=self._keeper,
            compression=compression,
            settings=settings,
            small_disk=small_disk,
        )
        self._site = self._stage.enter_context(site)
        self.watch.look_at(site.prometheus.alerts)
        return site

    def _leave(self) -> None:
        self.watch.look_at(None)
        if self._site is not None:
            self.seconds.add(self._site, self._began)
        self._site = None
        self._stage.close()

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: TID251 - a thread of its own, not a loop


def _blocks(row: Row, *roles: str) -> list[runbooks.Block]:
    """List the commands of the row's runbook; the judge misses the runbook if there is none."""
    path = RUNBOOKS / row.runbook
    return (
        [block for role in roles for block in runbooks.read(path).of(role)]
        if path.is_file()
        else []
    )


def _follow(site: Site, block: runbooks.Block, *, during: bool) -> Command:
    done = runbooks.run(block, site.environment(), timeout=30.0)
    said = (done.errors or done.output).strip()[-200:]
    return Command(
        place=f"line {block.line}", role=block.role, during=during, code=done.code, said=said
    )
