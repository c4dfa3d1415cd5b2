"""Measure what a timeline costs.

The rules alone by the number of signals, and reading and rendering 2,000 entries.

The rules are pure, so their figure is CPU time for one build, the median of some rounds that take
turns; the cost is linear if the microseconds an entry stay the same. Every tenth signal is
corrected, and another tenth is known to the minute. Reading asks a real PostgreSQL on this machine:
*cpu* is this process alone, *wall* is with PostgreSQL, which may use another core; *rebuild* is the
rules and the JSON without the reading, on this core alone.

    python -m benchmarks.bench_timeline [--rounds 15] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg

from benchmarks.rounds import medians
from postfacta_app.db import Unit
from postfacta_app.migrations import upgrade
from postfacta_app.principal import ANONYMOUS
from postfacta_app.signals.model import Precision, micros
from postfacta_app.timeline.kept import TimelinePage
from postfacta_app.timeline.model import Edit, Facts, Op, Signal, moment
from postfacta_app.timeline.rules import RULES, build
from postfacta_app.timeline.verify import facts_in
from postfacta_app.web.slices import as_json
from postfacta_embedded import EmbeddedPostgres
from postfacta_postgres import Database

__all__ = ["facts_of", "main"]

SIZES = (1_000, 2_000, 5_000, 10_000)
RESULTS = Path(__file__).parent / "results" / "timeline.json"
GOAL_MS = 100
_READ = 2_000
_NOON = micros(datetime(2026, 2, 7, 12, tzinfo=UTC))
_KINDS = ("change", "alert_firing", "metric", "log", "action", "alert_resolved")
# As machines send them; only people know a time by the minute or worse.
_PRECISIONS = (*[Precision.EXACT] * 6, *[Precision.SECOND] * 3, Precision.MINUTE)
_SIGNALS = """
insert into signals (id, source, external_id, kind, occurred_at, sequence, precision, time_basis, title, services, links,
  content_sha256, received_at, received_by) values ($1, $2, $3, $4, $5, $6, $7, 'event', $8, $9, $10, $11, $12, 'bench')"""
_EDITS = """
insert into edits (id, incident_id, at, op, signal_id, source, external_id, value, reason, actor)
values ($1, $2, $3, $4, $5, $6, $7, $8, 'bench', 'bench')"""
_INCIDENT = """
insert into incidents (id, title, description, severity, reporter, declared_at, created_by, timeline_at)
values ($1, 'An incident', 'Made by a benchmark', 'HIGH', 'bench', now(), 'bench', now())"""


def facts_of(count: int) -> Facts:
    """Make this many signals, each attached, every tenth of them corrected."""
    signals = [_signal(number) for number in range(count)]
    edits = [
        Edit(id=UUID(int=number), at=number, op=Op.ATTACH, signal_id=signal.signal_id)
        for number, signal in enumerate(signals)
    ]
    return Facts(signals, edits=[*edits, *_corrections(signals)])


def _signal(number: int) -> Signal:
    at = _NOON + (number * 7_919_000_003) % 14_400_000_000
    return Signal(
        signal_id=UUID(int=1 << 64 | number),
        source=f"source-{number % 12}",
        external_id=f"event-{number}",
        kind=_KINDS[number % len(_KINDS)],
        occurred_at=at,
        precision=_PRECISIONS[number % len(_PRECISIONS)],
        title=f"Something happened to the service, number {number}",
        content_sha256=f"{number:064x}",
        sequence=str(number) if number % 3 else None,
        received_at=at + 1_000_000,
        time_basis="event",
        services=("checkout", "payments"),
        links=({"url": f"https://example.org/{number}", "title": "graph"},),
    )


def _corrections(signals: Sequence[Signal]) -> Iterator[Edit]:
    at = len(signals)
    yield Edit(id=uuid4(), at=at, op=Op.CLOCK_OFFSET, source="source-3", value={"ms": 1500})
    ops = (Op.SET_TIME, Op.SET_TITLE, Op.PIN)
    for number, signal in enumerate(signals[::10]):
        op = ops[number % len(ops)]
        time_value = {
            "at": moment(signal.occurred_at + 60_000_000).isoformat(),
            "precision": "exact",
        }
        yield Edit(
            id=uuid4(),
            at=at + number,
            op=op,
            source=signal.source,
            external_id=signal.external_id,
            value={Op.SET_TIME: time_value, Op.SET_TITLE: {"title": "Corrected"}}.get(op),
        )


def _building(facts: Facts) -> Callable[[int], object]:
    async def work(repeats: int) -> None:
        for _ in range(repeats):
            build(facts)

    return work


async def _rules(rounds: int) -> dict[str, dict[str, float]]:
    works = {str(size): _building(facts_of(size)) for size in SIZES}
    spent = await medians(works, rounds, seconds=0.2)  # type: ignore[arg-type] # each returns an awaitable
    base = spent[str(SIZES[0])]
    return {
        size: {
            "ms": round(seconds * 1e3, 2),
            "us_per_entry": round(seconds * 1e6 / int(size), 2),
            "ratio": round(seconds / base, 2),
        }
        for size, seconds in spent.items()
    }


async def _read(dsn: str, rounds: int) -> dict[str, float]:
    incident = uuid4()
    facts = facts_of(_READ)
    await _keep(dsn, facts, incident)
    spent: list[tuple[float, float, float]] = []
    size = 0
    async with Database(dsn) as database:
        await database.wait_connected()
        for _ in range(rounds + 2):
            wall = time.perf_counter()
            cpu = time.process_time()
            async with database.transaction() as connection:
                facts = await facts_in(Unit(connection, ANONYMOUS, None), incident)
            read = time.process_time()
            whole = build(facts)
            page = TimelinePage(
                digest=whole.digest,
                why=None,
                rules=RULES,
                milestones=dict(whole.milestones),
                items=whole.entries,
                next_cursor=None,
            )
            size = len(as_json(200, page).body)
            ended = time.process_time()
            spent.append((time.perf_counter() - wall, ended - cpu, ended - read))
            assert len(page.items) == _READ
    walls, cpus, rebuilds = zip(*spent[2:], strict=True)
    return {
        "entries": _READ,
        "wall_ms": round(statistics.median(walls) * 1e3, 1),
        "cpu_ms": round(statistics.median(cpus) * 1e3, 1),
        "rebuild_ms": round(statistics.median(rebuilds) * 1e3, 1),
        "body_kib": round(size / 1024),
        "goal_ms": GOAL_MS,
    }


async def _keep(dsn: str, facts: Facts, incident: UUID) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_INCIDENT, incident)
        rows = [
            (
                *(
                    it.signal_id,
                    it.source,
                    it.external_id,
                    it.kind,
                    moment(it.occurred_at),
                    it.sequence,
                ),
                *(it.precision, it.title, list(it.services), json.dumps(list(it.links))),
                *(bytes.fromhex(it.content_sha256), moment(it.received_at)),
            )
            for it in facts.signals
        ]
        await connection.executemany(_SIGNALS, rows)
        edits = [
            (
                *(it.id, incident, moment(it.at), it.op, it.signal_id, it.source, it.external_id),
                None if it.value is None else json.dumps(it.value),
            )
            for it in facts.edits
        ]
        await connection.executemany(_EDITS, edits)
    finally:
        await connection.close()


def table(figures: dict[str, dict[str, float]]) -> Iterator[str]:
    """Write it in Markdown."""
    yield "| signals | ms | µs an entry | ratio |"
    yield "|---:|---:|---:|---:|"
    for size, figure in figures.items():
        yield (
            f"| {int(size):,} | {figure['ms']:.1f} | {figure['us_per_entry']:.1f} |"
            f" {figure['ratio']:.2f} |"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write the figures to a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="postfacta-bench-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)  # PostgreSQL may run as another user.
        with EmbeddedPostgres(folder / "data") as server:
            upgrade(server.dsn(), progress=lambda _: None)
            read = asyncio.run(_read(server.dsn(), options.rounds))
    figures = asyncio.run(_rules(options.rounds))
    print("\n".join(table(figures)))  # noqa: T201 - its job
    print(  # noqa: T201 - its job
        f"\n{_READ:,} entries, read and rendered ({read['body_kib']} KiB): {read['rebuild_ms']} ms"
        f" to rebuild and render, {read['cpu_ms']} ms of CPU with the reading, {read['wall_ms']} ms"
        f" with PostgreSQL; the goal is {GOAL_MS}."
    )
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(json.dumps({"rules": figures, "read": read}, indent=2) + "\n")


if __name__ == "__main__":
    main()
