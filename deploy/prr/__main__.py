"""Review whether PostFacta is ready: each question of `checks.yaml`, with what answers it.

    python -m deploy.prr                      # the tier fast: less than a minute
    python -m deploy.prr --tier full          # all that this machine can answer: eight minutes
    python -m deploy.prr R05 R12              # some rows, whatever their tier

Drills are not run here: their dated reports are read. Exit codes: 0 each row of the tier passed or
is waived, 1 a row failed, 2 nothing failed, but a row of the tier was not run, 3 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from deploy.prr.judge import Finding, Result, verdict, waived
from deploy.prr.report import as_html, as_json, as_markdown
from deploy.prr.running import Review
from deploy.prr.table import Row, TableError, Tier, read_rows, read_waivers
from postfacta_lab.engine.page import machine
from postfacta_lab.verdict import Verdict

__all__ = ["main"]

_ROOT: Final = Path(__file__).resolve().parents[2]


def main(words: Sequence[str] | None = None) -> int:
    """Run the review; return the exit code."""
    parser = argparse.ArgumentParser(
        "python -m deploy.prr",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("only", nargs="*", help="ids of rows; all without any")
    parser.add_argument(
        "--tier", choices=[tier.name.lower() for tier in Tier], default="fast", help="(%(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/prr"), help="folder of the report (%(default)s)"
    )
    given = parser.parse_args(words)
    tier = Tier[given.tier.upper()] if not given.only else Tier.MANUAL
    today = datetime.now(UTC).date()  # noqa: TID251 - the day of the review
    try:
        rows = read_rows()
        waivers = read_waivers(rows=rows)
        chosen = _chosen(rows, given.only)
    except TableError as error:
        sys.stderr.write(f"prr: {error}\n")
        return int(Verdict.NOTHING)
    began = time.monotonic()
    found = Review(_ROOT, tier=tier, today=today).run(chosen)
    findings = [waived(finding, waivers, today) for finding in found]
    for finding in findings:
        _say(finding)
    decided = verdict(findings, tier)
    about = {**machine(), "reviewed": f"{today}", "seconds": f"{time.monotonic() - began:.0f}"}
    given.out.mkdir(parents=True, exist_ok=True)
    document = as_json(findings, decided, tier, about=about)
    (given.out / "report.json").write_text(json.dumps(document, indent=1) + "\n")
    (given.out / "report.md").write_text(as_markdown(findings, decided, tier, about=about))
    (given.out / "report.html").write_text(as_html(findings, decided, tier, about=about))
    sys.stdout.write(
        f"{document['verdict']}, in {about['seconds']} s: {given.out / 'report.html'}\n"
    )
    return int(decided)


def _chosen(rows: Sequence[Row], ids: Sequence[str]) -> list[Row]:
    names = [name for word in ids for name in word.split(",") if name]
    known = {row.id: row for row in rows}
    if strange := [name for name in names if name not in known]:
        raise TableError(f"there is no row {strange[0]}: they are in deploy/prr/checks.yaml")
    return [known[name] for name in names] if names else list(rows)


def _say(finding: Finding) -> None:
    sys.stdout.write(f"{finding.result:8} {finding.row.id} {finding.row.question}\n")
    if finding.result is not Result.PASS:
        sys.stdout.write(f"         {finding.why}\n")


if __name__ == "__main__":
    sys.exit(main())
