"""Load a running service in open loop, and judge it.

    python -m loadtests --url http://127.0.0.1:8080 --path /invoices/7 --path "/invoices?limit=20" --rate 20

The same as Locust with `loadtests/locustfile.py`, whose other options may follow. TOKEN is sent as a bearer token.
Exit codes: 0 held, 1 did not hold, 2 undecided, 3 nothing measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

__all__ = ["main"]


class _Locust(Protocol):
    def main(self) -> None: ...


def main(arguments: Sequence[str] | None = None) -> None:
    """Pass the address and the other options to Locust, which ends the process.

    Raises:
        SystemExit: With the exit code of the run.
    """
    parser = argparse.ArgumentParser(
        "python -m loadtests",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--url", required=True, help="where the service is; its host must be this machine or in LOAD_HOSTS"
    )
    given, others = parser.parse_known_args(arguments)
    file = Path(__file__).with_name("locustfile.py")
    sys.path.insert(0, str(file.parent.parent))  # Locust imports the file by its path
    sys.argv = ["locust", "-f", str(file), "--headless", "--only-summary", "--host", given.url, *others]
    cast("_Locust", import_module("locust.main")).main()


if __name__ == "__main__":
    main()
