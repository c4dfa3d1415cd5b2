"""Run the suites of peers whole, and write what they say into a page.

`python -m tests.peers.record`.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from postfacta_core.clock import WALL
from tests.peers.kit import Comparison, Difference, compare, differences, fetch, with_servers
from tests.peers.suites import SUITES, Suite
from tests.strangers.kit import Environments, build

_Judged = tuple[Suite, Comparison, Sequence[Difference]]
_HEAD: Final = """# The peers' own test suites

The best judges of whether a layer is transparent are the tests that the authors of a framework wrote for themselves. Each suite
below is run twice: plain, and with a part of PostFacta in the place of a part of the peer. What passes plain and fails with ours is
a difference. Each difference is listed here with its reason; one that is not listed fails the tests, and so does a listed one that
is gone. A test that also fails in a wrapper that does nothing, or does not fail again, is no difference.

Written by `python -m tests.peers.record`; `pytest tests/peers` runs a share of each suite, and `make proofs ONLY=tests/peers` all but
those that no package index has.
"""


def _rows(done: Sequence[_Judged]) -> list[str]:
    rows = [
        "| suite | with ours | tests | pass plain | of these with ours |",
        "|---|---|---:|---:|---:|",
    ]
    for suite, found, _ in done:
        plain = [test for test, outcome in found.plain.items() if outcome == "passed"]
        ours = len(plain) - len(found.differing)
        rows.append(
            f"| {suite.name} {found.version} | {suite.ours} | {len(found.plain)} | {len(plain)} | {ours} |"
        )
    return rows


def _reasons(found: Comparison, listed: Sequence[Difference]) -> list[str]:
    rows: list[str] = []
    for entry in listed:
        count = sum(entry.matches(test) for test in found.differing)
        if count:
            rows.append(
                f"* {entry.reason} ({count}: {', '.join(f'`{_short(test)}`' for test in entry.tests)})"
            )
    rows += [f"* **Not explained**: `{_short(test)}`" for test in found.unlisted(listed)]
    return rows or ["* None."]


def _short(test: str) -> str:
    return test.removeprefix("tests/")


def _page(done: Sequence[_Judged], not_run: Sequence[str]) -> str:
    day = datetime.fromtimestamp(WALL(), UTC).date().isoformat()
    where = (
        f"{os.cpu_count()} processors, {platform.system()} and Python {platform.python_version()}"
    )
    parts = [_HEAD, f"On {day}, on a machine with {where}:\n", *_rows(done), ""]
    parts += [
        f"The tests of {suite.name} are those of its repository: the package has none.\n"
        for suite, _, _ in done
        if not suite.is_published
    ]
    parts += [
        f"Not run: {name}, whose source package has no tests; give its checkout with `--source`.\n"
        for name in not_run
    ]
    for suite, found, listed in done:
        parts += [f"## {suite.name}\n", *_reasons(found, listed), ""]
    return "\n".join(parts)


def _judge(
    suite: Suite, checkout: Path | None, folder: Path, environments: Environments
) -> _Judged:
    """Run one suite whole; what needs a PostgreSQL gets one of its own."""
    folder.mkdir()
    source = checkout or fetch(suite.package, folder)
    listed = differences(suite.name)
    environment = environments(*suite.requirements, extras=suite.extras)
    with with_servers(suite, folder) as served:
        found = compare(
            served, suite.tests, listed, environment=environment, source=source, folder=folder
        )
    for test in found.unlisted(listed):
        sys.stdout.write(f"{suite.name}: {test}\n")
    for pattern in found.healed(listed):
        sys.stdout.write(f"{suite.name}: listed, and passes: {pattern}\n")
    return suite, found, listed


def main() -> int:
    """Run what is asked for; return 1 if there is a difference without a reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="names of suites; by default all")
    parser.add_argument(
        "--source", action="append", default=[], help="NAME=FOLDER: a checkout of a peer"
    )
    parser.add_argument("--markdown", type=Path, help="the page, docs/reference/peers.md")
    chosen = parser.parse_args()
    checkouts = {
        name: Path(folder) for name, folder in (text.split("=", 1) for text in chosen.source)
    }
    suites = [suite for suite in SUITES if not chosen.only or suite.name in chosen.only]
    runnable = [suite for suite in suites if suite.is_published or suite.name in checkouts]
    with TemporaryDirectory() as text:
        folder = Path(text)
        for name in ("dist", "environments"):
            (folder / name).mkdir()
        _, wheel = build(folder / "dist")
        environments = Environments(wheel, folder / "environments")
        done = [
            _judge(suite, checkouts.get(suite.name), folder / f"suite{number}", environments)
            for number, suite in enumerate(runnable)
        ]
    page = _page(done, [suite.name for suite in suites if suite not in runnable])
    if chosen.markdown is None:
        sys.stdout.write(page)
    else:
        chosen.markdown.write_text(page, encoding="utf-8")
    return int(any(found.unlisted(listed) for _, found, listed in done))


if __name__ == "__main__":
    sys.exit(main())
