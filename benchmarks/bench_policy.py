"""Measure the CPU that each policy adds to a call, beside the peers, on asyncio and on uvloop.

All guard the same function, which does nothing. Rounds take turns, so that a slow moment of the
machine hits all alike; what is written are medians, without the loop around and the function
itself, and ratios to ours of the same run.

    python -m benchmarks.bench_policy [--rounds 15] [--loop asyncio uvloop] [--row breaker] [--json
    FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import uvloop

from benchmarks.policy_peers import OURS, TURN, nothing, rows
from benchmarks.rounds import Work, cyclic_objects, marked, medians

__all__ = ["main", "measure", "table"]

LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
RESULTS = Path(__file__).parent / "results" / "policies.json"
# One way, in one round: long against the clock's step, short against the machine's moods.
_SECONDS = 0.01
Figures = dict[str, dict[str, dict[str, float]]]


async def _bare(repeats: int) -> None:
    for _ in range(repeats):
        await nothing()


async def _loop(repeats: int) -> None:
    for _ in range(repeats):
        pass


async def _turn(repeats: int) -> None:
    for _ in range(repeats):
        await asyncio.sleep(0)


async def measure(rounds: int, chosen: str = "") -> Figures:
    """Measure the rows whose name begins so.

    For each way, ns added, ratio to ours, objects for the collector.
    """
    # A hit is the call itself; all else is around one.
    return {
        row: await _row(works, rounds, _loop if row.startswith("rate limit") else _bare)
        for row, works in (await rows(chosen)).items()
    }


async def _row(
    works: Mapping[str, Work], rounds: int, bare_work: Work
) -> dict[str, dict[str, float]]:
    spent = await medians({"bare": bare_work, "turn": _turn, **works}, rounds, seconds=_SECONDS)
    bare = spent.pop("bare")
    turn = spent.pop("turn")
    # An added time of nothing is a matter of noise: what is shown is at least a nanosecond.
    added = {
        name: max(1e-9, took - bare - (turn if name.endswith(TURN) else 0.0))
        for name, took in spent.items()
    }
    return {
        name: {
            "added_ns": round(seconds * 1e9, 1),
            "ratio": round(seconds / added[OURS], 2),
            "cyclic_objects": round(
                await cyclic_objects(works[name], 500 if seconds < 1e-4 else 5), 2
            ),
        }
        for name, seconds in added.items()
    }


def table(loops: Mapping[str, Figures]) -> Iterator[str]:
    """Write it in Markdown: a line for each way, two columns for each loop."""
    heads = "".join(f" {loop}, ns | ratio |" for loop in loops)
    yield f"| | |{heads} cyclic objects |"
    yield f"|---|---|{'---:|---:|' * len(loops)}---:|"
    first = next(iter(loops.values()))
    for row, ways in first.items():
        for name in ways:
            found = [figures[row][name] for figures in loops.values()]
            cells = "".join(
                f" {figure['added_ns']:,.0f} | {figure['ratio']:.1f} |" for figure in found
            )
            label = row if name == OURS else ""
            yield (
                f"| {label} | {name} |{cells}"
                f" {max(figure['cyclic_objects'] for figure in found):.2f} |"
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write the figures to a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--loop", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--row", default="", help="only rows whose name begins so")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    loops: dict[str, Figures] = {}
    for loop in options.loop:
        with marked(), asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            loops[loop] = runner.run(measure(options.rounds, options.row))
    print("\n".join(table(loops)))  # noqa: T201 - its job
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(json.dumps(loops, indent=2) + "\n")


if __name__ == "__main__":
    main()
