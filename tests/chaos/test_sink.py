"""What is posted to the sink is remembered, in order and by receiver, and can be waited for."""

from __future__ import annotations

import time
from collections.abc import Generator

import httpx2
import pytest

from chaos.sink import Sink


@pytest.fixture
def sink() -> Generator[Sink]:
    """Receive what is posted."""
    with Sink() as sink:
        yield sink


def post(sink: Sink, receiver: str, *names: str, status: str = "firing") -> int:
    alerts = [
        {"status": status, "labels": {"alertname": name}, "annotations": {"summary": name}}
        for name in names
    ]
    body = {"groupLabels": {"service": "postfacta"}, "alerts": alerts}
    return httpx2.post(sink.url(receiver), json=body, timeout=5.0).status_code


def test_what_came_is_listed_by_receiver_name_status_and_time(sink: Sink) -> None:
    assert post(sink, "pager", "Down", "Burn") == 200
    middle = time.monotonic()
    assert post(sink, "ticket", "Slow") == 200
    assert post(sink, "pager", "Down", status="resolved") == 200
    assert [one.name for one in sink.arrivals()] == ["Down", "Burn", "Slow", "Down"]
    assert [one.name for one in sink.arrivals("pager", status="firing")] == ["Down", "Burn"]
    assert [one.receiver for one in sink.arrivals(name="Slow")] == ["ticket"]
    assert [one.status for one in sink.arrivals("pager", after=middle)] == ["resolved"]
    assert len(sink.posts("pager")) == 2
    (slow,) = sink.arrivals("ticket")
    assert slow.group == {"service": "postfacta"}
    assert slow.annotations == {"summary": "Slow"}


def test_what_it_refuses_it_does_not_remember(sink: Sink) -> None:
    sink.answer = 503
    assert post(sink, "pager", "Down") == 503
    assert sink.arrivals() == []
    assert sink.posts("pager") == []
