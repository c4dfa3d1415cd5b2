"""Run the drain harness over the matrix of servers, and fail if a goal is missed.

    python -m loadtests.drain [--only uvicorn-1,...] [--scenarios stop,...] [--plain] [--rolling]
    [--fleet]
                              [--json FILE] [--markdown FILE]

`--plain` leaves the library out of the application: what is missed then is what the servers do by
themselves.

Any other service is stopped by `postfacta lab drain`. Exit codes: 0 held, 1 did not hold, 2
undecided, 3 nothing measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from postfacta_lab.drain.result import Result, text
from postfacta_lab.verdict import overall

from . import report
from .corners import drain_deadline, loop_blocked, second_signal, signal_during_startup
from .plan import Plan
from .rolling import reload_workers, roll_fleet, roll_instances
from .servers import MATRIX, ServerKind
from .stop import stop_under_load
from .streams import stop_by_default

__all__ = ["main"]

Scenario = Callable[[ServerKind, Plan], Awaitable[Result]]
_Step = tuple[str, Scenario, ServerKind]

_APP = "tests.servers.drain_app:app"
_SCENARIOS: Mapping[str, Scenario] = {
    "stop": stop_under_load,
    "deadline": drain_deadline,
    "second": second_signal,
    "startup": signal_during_startup,
    "blocked": loop_blocked,
    "streams": stop_by_default,
}
_ROLLED = ("uvicorn-1", "uvicorn-2", "granian-1", "gunicorn-uvicorn-2")
_RELOADED = ("uvicorn-2",)
_FLEET = "uvicorn-2"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="drain-") as folder:
        place = options.keep or Path(folder)
        plan = Plan(app=options.app, folder=place, plain=options.plain)
        results = asyncio.run(_run(_steps(options), plan))
    if not results:
        sys.stderr.write("nothing to run: none of these scenarios applies to these servers\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    if options.markdown:
        _write_page(options.markdown, results, suffix="-plain" if options.plain else "")
    return int(overall(result.verdict for result in results))


async def _run(steps: Sequence[_Step], plan: Plan) -> list[Result]:
    results: list[Result] = []
    for name, scenario, kind in steps:
        try:
            results.append(await scenario(kind, plan))
        except RuntimeError as error:
            # A server that does not start is a miss, and no reason to lose the rest.
            results.append(Result(scenario=name, server=kind.name, cells={}, misses=[str(error)]))
        sys.stdout.write(text(results[-1:]) + "\n")
        sys.stdout.flush()
    return results


def _write_page(page: Path, results: Sequence[Result], *, suffix: str) -> None:
    day = f"Measured on {datetime.now(UTC):%Y-%m-%d}."  # noqa: TID251 - of a report
    for scenario in dict.fromkeys(result.scenario for result in results):
        table = report.markdown([result for result in results if result.scenario == scenario])
        if not report.put(page, scenario + suffix, f"{table}\n{day}\n"):
            sys.stderr.write(f"{page} has no place for {scenario}{suffix}\n")


def _steps(options: argparse.Namespace) -> list[_Step]:
    kinds: list[ServerKind] = [MATRIX[name] for name in options.only]
    steps = [
        (name, _SCENARIOS[name], kind)
        for name in options.scenarios
        for kind in kinds
        if name != "second" or kind.own_signals
    ]
    if options.rolling:
        roll = partial(roll_instances, requests=options.requests)
        steps += [("rolling", roll, kind) for kind in kinds if kind.name in _ROLLED]
        steps += [("reload", reload_workers, kind) for kind in kinds if kind.name in _RELOADED]
    if options.fleet:
        steps.append(("fleet", partial(roll_fleet, requests=10 * options.requests), MATRIX[_FLEET]))
    return steps


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.drain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", type=partial(_names, known=MATRIX), default=list(MATRIX), metavar="SERVERS"
    )
    parser.add_argument(
        "--scenarios",
        type=partial(_names, known=_SCENARIOS),
        default=list(_SCENARIOS),
        metavar="SCENARIOS",
    )
    parser.add_argument("--plain", action="store_true", help="without the library")
    parser.add_argument(
        "--rolling", action="store_true", help="restart behind HAProxy, and by SIGHUP, too"
    )
    parser.add_argument(
        "--fleet", action="store_true", help="restart four instances behind two HAProxy, too"
    )
    parser.add_argument(
        "--requests",
        type=int,
        default=10_000,
        help="for each rolling restart, ten times as many for the fleet (default: 10000)",
    )
    parser.add_argument("--app", default=_APP, help=f"import string (default: {_APP})")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for journals and logs")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="a page with markers for the tables"
    )
    return parser


def _names(text: str, known: Mapping[str, object]) -> list[str]:
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no such: {', '.join(unknown)}; there are {', '.join(known)}"
        )
    return names


if __name__ == "__main__":
    sys.exit(main())
