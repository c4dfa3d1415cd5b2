"""Thirty days of what the rules would have recorded, written into a Prometheus's database before it starts.

Samples are 150 s apart: a value holds for five minutes, so that none is missed, and a month is made
in a few seconds.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DAYS", "EVERY", "Series", "write_blocks"]

EVERY = 150
DAYS = 30
_DAY = 86_400


@dataclass(frozen=True)
class Series:
    """One series.

    `value` gets the days before the end, and gives None where nothing was recorded.
    """

    name: str
    labels: Mapping[str, str]
    value: Callable[[float], float | None]

    def samples(self, end: int) -> Iterator[tuple[int, float]]:
        """Yield its samples from the oldest on."""
        for number in range(DAYS * _DAY // EVERY + 1, -1, -1):
            value = self.value(number * EVERY / _DAY)
            if value is not None:
                yield end - number * EVERY, value


def write_blocks(folder: Path, series: list[Series], end: int) -> None:
    """Write the series into the database of a Prometheus that does not run yet.

    Args:
        folder: That Prometheus's; its data are below.
        series: Those of one name stand together.
        end: The last sample's moment, in seconds since the epoch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "history.om"
    with file.open("w") as lines:
        for one in series:
            labels = ",".join(f'{label}="{value}"' for label, value in one.labels.items())
            for at, value in one.samples(end):
                lines.write(f"{one.name}{{{labels}}} {value!r} {at}\n")
        lines.write("# EOF\n")
    program = shutil.which("promtool") or "promtool"
    # A block of two hours each, as it makes by itself, costs it a look at the whole file for each
    # of 360.
    words = [
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        "--max-block-duration=960h",
        str(file),
        str(folder / "data"),
    ]
    subprocess.run([program, *words], check=True, capture_output=True, timeout=120)  # noqa: S603 - no shell
