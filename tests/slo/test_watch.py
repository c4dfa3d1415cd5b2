"""Reading objectives for a page: what is kept, and what a bad Prometheus cannot do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from postfacta_core.testing import ManualClock
from postfacta_slo.status import watch as module
from postfacta_slo.status.prometheus import Prometheus
from postfacta_slo.status.report import percent
from postfacta_slo.status.watch import Watch
from tests.slo.test_prometheus import server
from tests.slo.told import Told


@pytest.fixture
def told() -> Iterator[Told]:
    """Run a server that answers like a Prometheus."""
    prometheus = Told()
    with server(prometheus.answer) as prometheus.url:
        yield prometheus


def a_watch(url: str, *, interval: float = 60.0, clock: ManualClock | None = None) -> Watch:
    return Watch(
        "postfacta",
        lambda: Prometheus(url, timeout=1.0),
        interval=interval,
        clock=clock or ManualClock(),
    )


def test_what_was_read_is_there_with_its_age(told: Told) -> None:
    clock = ManualClock()
    watch = a_watch(told.url, clock=clock)
    assert (watch.statuses, watch.age) == (None, 0.0)
    watch.look()
    assert watch.statuses is not None
    assert [one.slo for one in watch.statuses] == ["availability"]
    assert watch.statuses[0].remaining == pytest.approx(0.6)
    clock.advance(42)
    assert watch.age == 42.0


def test_it_is_read_again_once_the_interval_is_over(told: Told) -> None:
    clock = ManualClock()
    watch = a_watch(told.url, clock=clock)
    watch.look()
    first = watch.statuses
    clock.advance(59)
    watch.look()
    assert watch.statuses is first
    clock.advance(1)
    watch.look()
    assert watch.statuses is not first
    assert watch.age == 0.0


def test_a_new_address_is_read_the_next_time(told: Told) -> None:
    current = [Prometheus("http://127.0.0.1:9", timeout=1.0)]
    watch = Watch("postfacta", lambda: current[-1])
    assert watch.name == "http://127.0.0.1:9"
    watch.look()
    assert watch.error
    current.append(Prometheus(told.url.replace("//", "//me:secret@"), timeout=1.0))
    watch.look()
    assert watch.statuses is not None
    assert watch.name == told.url


@pytest.mark.parametrize(
    "broken", ["<html>", '{"status": "success", "data": {"resultType": "vector", "result": [{}]}}']
)
def test_what_was_read_last_is_kept_while_nothing_can_be_read(told: Told, broken: str) -> None:
    watch = a_watch(told.url, interval=0)
    watch.look()
    told.broken = broken
    watch.look()
    assert watch.error
    kept = watch.statuses
    assert kept is not None
    assert kept[0].slo == "availability"
    told.broken = ""
    watch.look()
    assert not watch.error
    assert watch.statuses is not kept


def test_what_could_not_be_read_is_asked_for_again_before_the_interval_is_over(told: Told) -> None:
    watch, told.broken = a_watch(told.url, interval=3600), "<html>"
    watch.look()
    assert watch.error
    told.broken = ""
    watch.look()
    assert (watch.error, watch.statuses is None) == ("", False)


def test_a_fault_of_our_own_is_named_and_ends_nothing(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = a_watch(told.url)
    with monkeypatch.context() as broken:
        broken.setattr(module, "query_status", None)
        watch.look()
    assert (watch.error, watch.statuses) == ("TypeError", None)
    watch.look()
    assert watch.statuses is not None


def test_the_page_shows_how_to_keep_objectives_for_a_page_of_ones_own(told: Told) -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/slo-as-code.md").read_text()
    found = re.search(
        r"## Show them on a page of your own.*?```python\n(.*?)Thread\(", page, re.DOTALL
    )
    assert found
    text = found[1].replace("http://prometheus:9090", told.url).replace('"shop"', '"postfacta"')
    names: dict[str, Any] = {}
    exec(text, names)  # noqa: S102 - our own page
    assert names["objectives"]() == []
    names["watch"].look()
    (shown,) = names["objectives"]()
    assert (shown["name"], shown["aim"], names["watch"].error) == (
        "availability",
        percent(0.99),
        "",
    )
