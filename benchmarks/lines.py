"""Format each access line as JSON and write it, as a service does.

Ours by our handler, the peers' by theirs.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from pythonjsonlogger.json import JsonFormatter as PeersFormatter

from benchmarks.peers import ACCESS
from postfacta_core.logs import LineWriter
from postfacta_core.telemetry.logs import JsonFormatter

__all__ = ["write_to_nowhere"]


def write_to_nowhere() -> None:
    """Write all lines of this process to the null device.

    What a log collector costs belongs to neither side.
    """
    # What `logs.configure` makes of standard output, where results are printed here.
    ours = LineWriter(os.open(os.devnull, os.O_WRONLY))
    ours.setFormatter(JsonFormatter({"service": "bench", "instance": "bench-1"}))
    logging.basicConfig(level=logging.INFO, handlers=[ours])
    theirs = logging.StreamHandler(Path(os.devnull).open("w"))  # noqa: SIM115 - as long as the process
    theirs.setFormatter(PeersFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    ACCESS.handlers[:] = [theirs]
    ACCESS.propagate = False
