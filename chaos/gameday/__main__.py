"""Cause every fault that there is an alert for, and judge what the alerts did about it.

    python -m chaos.gameday                              the whole day
    python -m chaos.gameday database-killed flood        these rows
    python -m chaos.gameday --compress 1 error-burst     with production's own waits
    python -m chaos.gameday --list

Prometheus' windows and waits are divided by --compress. Writes `gameday.json`, `report.html`, and
`incident.md`: the post-mortem that a PostFacta out of reach of the faults made of the day's alerts.
Exit codes: 0 all passed, 1 something did not, 2 nothing failed but a row was not run.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from chaos.gameday.day import Day, Options
from chaos.gameday.judge import Result, not_run
from chaos.gameday.report import Told, as_html, as_json, as_markdown
from chaos.gameday.rows import Row, Table, TableError, read_table
from chaos.gameday.site import missing_programs
from chaos.stack import prepare
from loadtests.drain.report import put

__all__ = ["main", "run_day"]

_CALM = 1800.0  # seconds in production; compressed, but not below a minute
_CODES = {"pass": 0, "fail": 1, "not run": 2}


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    options = _parse(argv)
    names = [name for word in options.only for name in word.split(",") if name]
    try:
        table = read_table()
        rows = table.choose(names)
    except TableError as error:
        print(error, file=sys.stderr)  # noqa: T201 - its job
        return 2
    if options.list:
        for row in rows:
            _say(f"{row.name:<26}{row.what}; must fire: {', '.join(map(str, row.expect))}")
        return 0
    if missing := missing_programs():
        print(  # noqa: T201 - its job
            f"not run: this system lacks {', '.join(missing)}: apt-get install them",
            file=sys.stderr,
        )
        return 2
    calm = options.calm if options.calm is not None else max(60.0, _CALM / options.compress)
    told = run_day(table, rows, Options(compression=options.compress, calm=calm))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gameday.json").write_text(json.dumps(as_json(told), indent=1) + "\n")
    (options.out / "report.html").write_text(as_html(told))
    (options.out / "incident.md").write_text(told.kept.markdown)
    if options.markdown:
        put(options.markdown, options.section, as_markdown(told))
    _say(
        f"{told.verdict}; noise {told.noise}; {told.took / 60:.0f} min; report:"
        f" {options.out / 'report.html'}"
    )
    return _CODES[told.verdict]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m chaos.gameday",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("only", nargs="*", help="ids of rows; all without any")
    parser.add_argument(
        "--compress", type=int, default=10, help="divides all waits of alerting (%(default)s)"
    )
    parser.add_argument(
        "--calm", type=float, help="seconds of calm at the start (half an hour, compressed)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/gameday"), help="folder of the report (%(default)s)"
    )
    parser.add_argument("--markdown", type=Path, help="a page whose tables are replaced")
    parser.add_argument(
        "--section", default="gameday", help="which tables of the page (%(default)s)"
    )
    parser.add_argument("--list", action="store_true", help="show the rows, and do nothing")
    options = parser.parse_args(argv)
    if not 1 <= options.compress <= 60:
        parser.error("--compress must be 1 to 60: above, Prometheus cannot keep up")
    return options


def run_day(table: Table, rows: Sequence[Row], options: Options) -> Told:
    """Run the calm time and these rows; everything that was started has ended when it returns."""
    began = time.monotonic()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="postfacta-gameday-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as another user
        template = prepare(folder / "template")
        with Day(folder, template, options=options) as day:
            calm = day.be_calm()
            _say(
                f"calm: {len(calm.noise)} alerts in {calm.seconds:.0f} s {'; '.join(calm.reasons)}"
            )
            for row in rows:
                _say(f"{row.name}: {row.what}")
                try:
                    results.append(day.run(row))
                except KeyboardInterrupt:  # What is known already is worth a report.
                    results += [not_run(it, "interrupted") for it in rows[len(results) :]]
                    break
                _tell(results[-1])
            episodes = day.watch.episodes()
            arrivals = day.told()
            kept = day.conclude(results)
    return Told(
        compression=options.compression,
        calm=calm,
        results=results,
        not_caused=table.not_caused,
        episodes=episodes,
        arrivals=arrivals,
        seconds=day.seconds.counts,
        kept=kept,
        took=time.monotonic() - began,
    )


def _tell(result: Result) -> None:
    for it in result.findings:
        fired = (
            "never"
            if it.fired_after is None
            else (
                f"{it.fired_after:.1f} s, x{result.compression:g} ="
                f" {it.fired_after * result.compression:.0f} s"
            )
        )
        _say(
            f"  {it.alert}: fired after {fired}; sent after {it.told_after} s; resolved"
            f" {it.resolved_after} s after the repair"
        )
    if result.others:
        _say(f"  also: {', '.join(result.others)}")
    _say(f"  {result.verdict} {'; '.join(result.reasons)}")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - its job


if __name__ == "__main__":
    # This signal must also end everything that was started here.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
