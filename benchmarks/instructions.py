"""Count the machine instructions of a request, which is the same on a busy machine as on a quiet one.

Each variant runs under callgrind twice, with more requests the second time; the difference is what the requests took.

    python -m benchmarks.instructions [--json FILE] [VARIANT...]      (needs valgrind; some minutes)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench_asgi import applications, serve

__all__ = ["count", "main"]

DEFAULT = ("bare", "harden, no SDK", "peers, cheapest", "peers, popular")
_FEW, _MORE = 100, 300


def count(variant: str) -> int:
    """Return the instructions of one request of a variant.

    Raises:
        RuntimeError: If valgrind is missing, or did not say what it counted.
    """
    few, more = _total(variant, _FEW), _total(variant, _MORE)
    return (more - few) // (_MORE - _FEW)


def _total(variant: str, requests: int) -> int:
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise RuntimeError("needs valgrind: install it from your system's packages")
    command = [valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable]
    run = [*command, "-m", "benchmarks.instructions", "--serve", variant, "--requests", str(requests)]
    # The same hashes in each run: else sets and dicts differ by chance.
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None:
        raise RuntimeError(f"callgrind of {variant!r}: {done.stderr[-800:]}")
    return int(found[1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"default: {', '.join(DEFAULT)}")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--requests", type=int, default=_FEW, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        logging.basicConfig(level=logging.INFO, handlers=[logging.NullHandler()])
        asyncio.run(serve(applications()[options.serve], options.requests))
        return
    figures: dict[str, int] = {}
    for variant in options.variants or DEFAULT:
        figures[variant] = count(variant)
        added = figures[variant] - figures.get("bare", figures[variant])
        print(f"{variant:<34}{figures[variant]:>12,}{added:>+12,}")  # noqa: T201 - its job
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
