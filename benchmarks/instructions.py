"""Count the machine instructions of a request, which is the same on a busy machine as on a quiet one.

All variants run in one process under callgrind, which writes down what it has counted before and
after the requests of each. It does so where the C function `getloadavg` is called: no request does
that.

    python -m benchmarks.instructions [--request GET] [--json FILE] [VARIANT...]      (needs
    valgrind; half a minute)
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.bench_asgi import KINDS, applications, serve
from benchmarks.lines import write_to_nowhere
from postfacta_core.asgi._types import ASGIApp

__all__ = ["count", "main", "serve_counted"]

DEFAULT = ("bare", "harden, no SDK", "peers, cheapest", "peers, popular")
_WARM = 120
_COUNTED = 200


def count(
    variants: Sequence[str], kind: str = "GET", module: str = "benchmarks.instructions"
) -> Mapping[str, int]:
    """Return the instructions of one request of each variant.

    `module` serves them with `--serve`, by `serve_counted`.

    Raises:
        RuntimeError: If valgrind is missing, or did not say what it counted.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise RuntimeError("needs valgrind: install it from your system's packages")
    with tempfile.TemporaryDirectory() as place:
        dumps = Path(place, "dump")
        command = [
            valgrind,
            "--tool=callgrind",
            f"--callgrind-out-file={dumps}",
            "--dump-before=getloadavg",
        ]
        run = [
            *command,
            sys.executable,
            "-m",
            module,
            "--serve",
            "--request",
            kind,
        ]
        run += variants
        # The same hashes in each run: else sets and dicts differ by chance.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - our own
        if done.returncode:
            raise RuntimeError(f"callgrind: {done.stderr[-800:]}")
        # The odd dumps are what came in between.
        return {
            name: _total(Path(f"{dumps}.{2 * n + 2}")) // _COUNTED
            for n, name in enumerate(variants)
        }


def _total(dump: Path) -> int:
    found = re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"callgrind counted nothing: {dump}")
    return int(found[1])


async def serve_counted(
    make: Callable[[], Mapping[str, ASGIApp]], variants: Sequence[str], kind: str
) -> None:
    """Serve each variant of what `make` makes inside a loop, with marks that callgrind sees."""
    apps = make()
    for variant in variants:
        await serve(apps[variant], _WARM, kind)
        gc.collect()
        gc.disable()
        os.getloadavg()
        await serve(apps[variant], _COUNTED, kind)
        os.getloadavg()
        gc.enable()


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "variants", nargs="*", metavar="VARIANT", help=f"default: {', '.join(DEFAULT)}"
    )
    parser.add_argument("--request", choices=KINDS, default="GET", help="its kind (default: GET)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        write_to_nowhere()
        made = partial(applications, options.request)
        asyncio.run(serve_counted(made, options.variants, options.request))
        return
    figures = count(options.variants or DEFAULT, options.request)
    for variant, counted in figures.items():
        added = counted - figures.get("bare", counted)
        print(f"{variant:<38}{counted:>12,}{added:>+12,}")  # noqa: T201 - its job
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
