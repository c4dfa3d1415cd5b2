"""What the tests of the reliability page share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slo.test_prometheus import server
from tests.slo.told import Told


@pytest.fixture
def told() -> Iterator[Told]:
    """Run a server that answers like a Prometheus."""
    prometheus = Told()
    with server(prometheus.answer) as prometheus.url:
        yield prometheus
