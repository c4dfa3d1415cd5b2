"""Merge the metrics pages of several workers into one.

Each worker's series carry its own label, so that nothing has to be added up, and none occurs twice. What Prometheus
asks for is that all series of a metric stand together, below one heading.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from .catalogue import RUNTIME_METRICS

_WORKERS: Final = "postfacta_metrics_workers"
_HELP: Final = b"# HELP "
_END: Final = b"# EOF"


def merge(pages: Sequence[bytes], *, silent: int = 0) -> bytes:
    """Join pages that were all rendered in the same format, by the same library.

    Args:
        pages: Of the workers that answered, each with a label of its own on all series.
        silent: How many did not answer.
    """
    sections: dict[bytes, list[bytes]] = {}
    for page in (*pages, _about(len(pages), silent)):
        for heading, series in _sections(page):
            name = heading[0].split(b" ", 3)[2]
            # Of two versions of the service, the first one's heading stays.
            sections.setdefault(name, list(heading)).extend(series)
    lines = [line for section in sections.values() for line in section]
    if any(page.rstrip().endswith(_END) for page in pages):
        lines.append(_END)
    return b"".join(line + b"\n" for line in lines)


def _sections(page: bytes) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Cut a page into metrics, each with its heading and its series."""
    heading: list[bytes] = []
    series: list[bytes] = []
    # Not by `splitlines`: a carriage return may stand in a label.
    for line in page.rstrip(b"\n").split(b"\n"):
        if line.startswith(_HELP):
            if heading:
                yield heading, series
            heading, series = [line], []
        elif line.startswith(b"# "):
            if line != _END:
                heading.append(line)
        else:
            series.append(line)
    if heading:
        yield heading, series


def _about(answered: int, silent: int) -> bytes:
    lines = (
        f"# HELP {_WORKERS} {RUNTIME_METRICS[_WORKERS].text}",
        f"# TYPE {_WORKERS} gauge",
        f'{_WORKERS}{{state="answered"}} {float(answered)}',
        f'{_WORKERS}{{state="silent"}} {float(silent)}',
    )
    return "".join(f"{line}\n" for line in lines).encode()
