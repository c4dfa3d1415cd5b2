"""The command `postfacta`, also as `python -m postfacta_app`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code, 2 if the packages of the extra `app` are not installed."""
    try:
        from .cli import main as run  # noqa: PLC0415 - without the extra it cannot be imported
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.startswith("postfacta"):
            raise  # no extra has it
        sys.stderr.write(
            "postfacta: this command needs an extra that is not installed: "
            f'pip install "postfacta[app]" (no module {missing})\n'
        )
        return 2
    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
