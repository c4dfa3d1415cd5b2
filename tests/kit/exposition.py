"""Read a page of metrics as Prometheus does; prometheus-client's own parser has no types."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser

__all__ = ["OPEN_METRICS", "read_open_metrics"]

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
"""What a scrape asks for in `Accept` to get exemplars."""

_READ = cast("Callable[[str], Iterable[Metric]]", parser.text_string_to_metric_families)  # pyright: ignore[reportUnknownMemberType] - see above


def read_open_metrics(page: str | bytes) -> dict[str, Metric]:
    """Return the metrics of a page in OpenMetrics by their names.

    It raises for what is not well-formed.
    """
    return {
        metric.name: metric for metric in _READ(page if isinstance(page, str) else page.decode())
    }
