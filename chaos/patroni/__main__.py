"""Fail over a PostgreSQL that Patroni and etcd keep, under writes, and find out what its users notice.

    python -m chaos.patroni [KIND...] [--random 100] [--seed 1] [--json FILE] [--add FILE]...
    [--markdown FILE]

Two instances of the service, four careful clients, and a prober that writes to each PostgreSQL
directly. What must hold:

* the longest time without any acknowledged write stays within the goal of its kind;
* nothing that was acknowledged is lost or doubled, by the judge of the durability checker and by
  the prober's own writes;
* no two servers take writes at once;
* no instance of the service is restarted.

Exit codes: 0 all held, 1 something did not, 3 not run, with the reason.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from chaos.durability import longest_silence
from chaos.history import judge
from chaos.patroni.cluster import Cluster, Node, missing_programs
from chaos.patroni.primaries import Prober, conflicts, losses
from chaos.processes import Instance, command
from chaos.reading import read_all
from chaos.restore import flaws_of
from chaos.stack import EMAIL, sign_in
from chaos.together import drill_folder, publish
from chaos.writers import Journal, Writing
from postfacta_lab.engine.page import machine
from postfacta_lab.engine.processes import wait_until

__all__ = ["KINDS", "Failover", "Kind", "Outcome", "drill", "main"]

_PATIENCE = 120.0
_ENOUGH = 200
_AHEAD = 1.0  # seconds
_LEASE = 20.0  # seconds: `ttl`
_WITHOUT_ETCD = 25.0
_BEHIND = 2.0  # seconds
# More than there are clients, each of which waits for its answer: at least one was acknowledged.
_UNSENT = 5
_WRITTEN = "select count(*) from audit_log"
_SENDERS = "select pid from pg_stat_replication"


@dataclass(frozen=True, slots=True)
class Kind:
    """What is done to the leader, or to what the cluster rests on.

    Attributes:
        what: In words.
        goal: The most seconds without an acknowledged write.
        cause: Does it, and returns when the cluster may heal.
        moves: Whether another node leads afterwards; None if either may be.
    """

    what: str
    goal: float
    cause: Callable[[Cluster, Node], None]
    moves: bool | None = True


@dataclass(frozen=True, slots=True)
class Failover:
    """What was seen of one; seconds."""

    kind: str
    leader: str
    successor: str
    gap: float
    healed: float


@dataclass(slots=True)
class Outcome:
    """What was seen of all.

    Attributes:
        failovers: In order.
        acknowledged: Writes of the service's clients.
        unknown: Those whose clients never learned what became of them.
        lost: Acknowledged writes that are not there, of clients and directly to PostgreSQL.
        probed: Writes that each PostgreSQL took directly.
        flaws: What must not be.
    """

    failovers: list[Failover] = field(default_factory=list[Failover])
    acknowledged: int = 0
    unknown: int = 0
    lost: int = 0
    probed: dict[str, int] = field(default_factory=dict[str, int])
    flaws: list[str] = field(default_factory=list[str])

    def add(self, other: Mapping[str, Any]) -> None:
        """Add what another run wrote as JSON."""
        self.failovers += [Failover(**failover) for failover in other["failovers"]]
        self.acknowledged += other["acknowledged"]
        self.unknown += other["unknown"]
        self.lost += other["lost"]
        self.probed = dict(Counter(self.probed) + Counter(other["probed"]))
        self.flaws += other["flaws"]


def _switch_over(cluster: Cluster, leader: Node) -> None:
    cluster.switch_over(leader)


def _kill_postgres(cluster: Cluster, leader: Node) -> None:
    leader.kill_postgres()
    _wait_for_another(cluster, leader)


def _kill_behind(cluster: Cluster, leader: Node) -> None:
    dsn = cluster.dsn(leader.port)
    for sender in asyncio.run(_column(dsn, _SENDERS)):
        os.kill(sender, signal.SIGSTOP)
    if cluster.synchronous:
        time.sleep(_BEHIND)  # noqa: TID251 - each write waits for a standby
    else:
        (before,) = asyncio.run(_column(dsn, _WRITTEN))
        wait_until(
            lambda: asyncio.run(_column(dsn, _WRITTEN))[0] >= before + _UNSENT,
            "the leader alone has writes",
            within=_PATIENCE,
            every=0.1,
        )
    _kill_postgres(cluster, leader)


async def _column(dsn: str, statement: str) -> list[int]:
    connection = await asyncpg.connect(dsn, timeout=_PATIENCE)
    try:
        return [row[0] for row in await connection.fetch(statement)]
    finally:
        await connection.close()


def _kill_node(cluster: Cluster, leader: Node) -> None:
    leader.kill()
    _wait_for_another(cluster, leader)
    leader.start()


def _kill_all_postgres(cluster: Cluster, leader: Node) -> None:
    for node in (*(it for it in cluster.nodes if it is not leader), leader):
        node.kill_postgres()
        time.sleep(_AHEAD)  # noqa: TID251 - it goes on alone


def _wait_for_another(cluster: Cluster, former: Node) -> None:
    others = [node for node in cluster.nodes if node is not former]
    wait_until(
        lambda: any(node.takes_writes() for node in others),
        "another leads",
        within=_PATIENCE,
        every=0.1,
    )


def _take_etcd(cluster: Cluster, leader: Node) -> None:
    _without_etcd(cluster)
    time.sleep(_LEASE)  # noqa: TID251 - until then a node may know etcd as it was before


def _switch_over_late(cluster: Cluster, leader: Node) -> None:
    _without_etcd(cluster)
    cluster.wait_healthy(_PATIENCE)
    cluster.switch_over(leader)


def _without_etcd(cluster: Cluster) -> None:
    for etcd in cluster.etcds[:2]:
        etcd.kill()
    time.sleep(_WITHOUT_ETCD)  # noqa: TID251 - it lasts
    for etcd in cluster.etcds[:2]:
        etcd.start()
    wait_until(
        lambda: all(etcd.is_healthy() for etcd in cluster.etcds),
        "etcd",
        within=_PATIENCE,
        every=0.2,
    )


KINDS: Mapping[str, Kind] = {
    "switchover": Kind("switchover, as `patronictl switchover` does it", 10.0, _switch_over),
    "postmaster": Kind("the leader's PostgreSQL is killed", 10.0, _kill_postgres),
    "all": Kind(
        "each PostgreSQL is killed, the leader's last", 30.0, _kill_all_postgres, moves=None
    ),
    "behind": Kind(
        f"the leader's PostgreSQL is killed after it sent its standbys nothing for {_BEHIND:.0f} s",
        10.0 + _BEHIND,
        _kill_behind,
    ),
    "node": Kind("the leader's node is killed: Patroni and PostgreSQL", 30.0, _kill_node),
    "return": Kind("switchover just after etcd's return", 30.0, _switch_over_late),
    "etcd": Kind(f"etcd without a quorum for {_WITHOUT_ETCD:.0f} s", 10.0, _take_etcd, moves=False),
}
"""What is done, by name."""


def drill(
    folder: Path, kinds: Sequence[str], *, enough: int = _ENOUGH, synchronous: bool = True
) -> Outcome:
    """Do each of these to one cluster under writes; return what was seen."""
    journal = Journal()
    outcome = Outcome()
    current = ""
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(folder, synchronous=synchronous))
        instances, token = _start_service(cluster, folder, stack)
        pids = [instance.pid for instance in instances]
        servers = {node.name: cluster.dsn(node.port) for node in cluster.nodes}
        prober = stack.enter_context(Prober(servers, cluster.dsn()))
        urls = [instance.url for instance in instances]
        with Writing(urls, token, journal=journal, count=4, fault=lambda: current) as writing:
            for current in kinds:
                outcome.failovers.append(_one(cluster, current, journal, writing))
                _log(outcome.failovers[-1])
        prober.__exit__()
        outcome.flaws += [*writing.problems, *prober.problems]
        if [instance.pid for instance in instances] != pids:
            outcome.flaws.append("an instance of the service was restarted")
        reading = read_all(urls[0], token)
        findings = judge(journal.writes, reading.stored, minimum=enough, orphans=reading.orphans)
        outcome.acknowledged = findings.acknowledged
        outcome.unknown = findings.unknown
        outcome.probed = dict(prober.servers())
        stored = losses(prober.accepted, prober.stored())
        outcome.lost = len(findings.wrong["lost"]) + len(stored)
        outcome.flaws += [*flaws_of(findings), *conflicts(prober.accepted), *stored[:3]]
    outcome.flaws += [flaw for failover in outcome.failovers for flaw in _missed(failover)]
    return outcome


def _start_service(cluster: Cluster, folder: Path, stack: ExitStack) -> tuple[list[Instance], str]:
    dsn = cluster.dsn()
    password = secrets.token_urlsafe(16)
    command("migrate", dsn=dsn)
    who = ("--email", EMAIL, "--name", "Chaos", "--password-stdin")
    command("user", "add", "--role", "admin", *who, dsn=dsn, given=password + "\n")
    instances = [
        Instance(f"instance{number}", dsn, log=folder / f"instance{number}.log")
        for number in (1, 2)
    ]
    for instance in instances:
        stack.callback(instance.kill)
        instance.start()
    for instance in instances:
        instance.wait_ready()
    return instances, sign_in(instances[0].url, password)


def _one(cluster: Cluster, name: str, journal: Journal, writing: Writing) -> Failover:
    cluster.wait_healthy(_PATIENCE)
    writing.stop.wait(1.0)
    leader = cluster.leader()
    if leader is None:
        raise RuntimeError("a healthy cluster has no leader")
    began = time.monotonic()
    KINDS[name].cause(cluster, leader)
    cluster.wait_healthy(_PATIENCE)
    healed = time.monotonic()
    writing.stop.wait(2.0)
    successor = cluster.leader()
    gap = longest_silence(journal.acknowledged_at, began, time.monotonic())
    return Failover(
        name,
        leader.name,
        "none" if successor is None else successor.name,
        round(gap, 2),
        round(healed - began, 2),
    )


def _missed(failover: Failover) -> list[str]:
    kind = KINDS[failover.kind]
    flaws = list[str]()
    if failover.gap > kind.goal:
        flaws.append(
            f"{failover.kind}: {failover.gap:.1f} s without a write, {kind.goal:.0f} are allowed"
        )
    if kind.moves is (failover.leader == failover.successor):
        flaws.append(f"{failover.kind}: {failover.leader} led, and then {failover.successor}")
    return flaws


def _log(failover: Failover) -> None:
    sys.stderr.write(f"{failover}\n")


def main(words: Sequence[str]) -> int:
    """Run the drill; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos.patroni",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument(
        "--random",
        type=int,
        default=0,
        metavar="N",
        help="N more at random, of those that need no outage of etcd",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the choices")
    parser.add_argument(
        "--asynchronous", action="store_true", help="do not wait for a standby: see what that loses"
    )
    parser.add_argument("--json", type=Path, help="write what was seen there")
    parser.add_argument(
        "--add",
        type=Path,
        action="append",
        default=[],
        help="what another run wrote, for the same report",
    )
    parser.add_argument("--markdown", type=Path, help="write the report there")
    given = parser.parse_args(words)
    if unknown := set(given.kinds) - set(KINDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if missing := missing_programs():
        sys.stderr.write(f"not run: this machine has no {', '.join(missing)}\n")
        return 3
    kinds = given.kinds or list(KINDS)
    moving = ["switchover", "postmaster", "all", "node"]
    luck = random.Random(given.seed)  # noqa: S311 - choices, no secret
    kinds += [luck.choice(moving) for _ in range(given.random)]
    with drill_folder("failover") as folder:
        outcome = drill(folder, kinds, synchronous=not given.asynchronous)
    if given.json:
        given.json.write_text(json.dumps(asdict(outcome), indent=1) + "\n")
    for other in given.add:
        outcome.add(json.loads(other.read_text()))
    publish(_report(outcome), given.markdown)
    return int(bool(outcome.flaws))


def _report(outcome: Outcome) -> str:
    lines: list[str] = []
    for name, kind in KINDS.items():
        seen = [failover for failover in outcome.failovers if failover.kind == name]
        if seen:
            gaps = sorted(failover.gap for failover in seen)
            met = "yes" if gaps[-1] <= kind.goal else "**no**"
            lines.append(
                f"| {kind.what} | {len(seen)} | {gaps[len(gaps) // 2]:.1f} s | {gaps[-1]:.1f} s |"
                f" {kind.goal:.0f} s | {met} |"
            )
    probed = ", ".join(f"{name} {number}" for name, number in sorted(outcome.probed.items()))
    return "\n".join(
        (
            "# Failover",
            "",
            (
                "Written by `make drill ONLY=failover`: three Patroni with a PostgreSQL each, three etcd"
                " and HAProxy, configured by `deploy/patroni`;"
            ),
            (
                "two instances of the service, which are never restarted; four clients that repeat"
                " each write until its outcome is known;"
            ),
            "and a prober that writes to each PostgreSQL directly, ten times a second.",
            "",
            "| what | n | write gap, median | longest | goal | met |",
            "|---|---:|---:|---:|---:|---|",
            *lines,
            "",
            (
                f"* {outcome.acknowledged} writes of clients were acknowledged, {outcome.unknown}"
                f" stayed unknown, {outcome.lost} were lost. The prober's: {probed}."
            ),
            (
                f"* {'; '.join(outcome.flaws) if outcome.flaws else 'Nothing acknowledged was lost or doubled, and no two servers took writes at once.'}"
            ),
            (
                "* Just after etcd's return the other nodes still know it as it was, for up to the"
                " leader's lease: a switchover waits for them."
            ),
            (
                "* The gap is the longest time without any acknowledgement, from the fault until"
                " the cluster is healthy again."
            ),
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
