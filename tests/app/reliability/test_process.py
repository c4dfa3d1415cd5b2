"""What the process reports about itself."""

from __future__ import annotations

from postfacta_app.reliability.pages import Numbers
from postfacta_core.telemetry.metrics import Metrics


def test_a_process_that_has_just_begun_has_numbers_too() -> None:
    numbers = Numbers(Metrics(with_process=False).registry)
    assert list(numbers.names("postfacta_breaker_state", "breaker")) == []
    assert numbers.sum("db_client_connection_max") == 0
