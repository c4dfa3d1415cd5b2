"""A real Alertmanager on the deployed configuration delivers, and silences what says the same, and that alone."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest

from chaos.alertmanager import Alertmanager, compress
from chaos.sink import Sink
from tests.ops.alerting.rules import needs_alertmanager

pytestmark = [needs_alertmanager, pytest.mark.usefixtures("programs")]
_BY = 10.0
"""How much shorter its waits are: 10 s for a page become one."""

_BURN = {"alertname": "PostfactaErrorBudgetBurn", "component": "slo"}


@pytest.fixture
def sink() -> Generator[Sink]:
    """Receive notifications."""
    with Sink() as sink:
        yield sink


@pytest.fixture
def alertmanager(tmp_path: Path, sink: Sink) -> Generator[Alertmanager]:
    """Run one that tells the sink."""
    urls = {f"{name}_url": sink.url(name) for name in ("pager", "ticket", "deadman")}
    with Alertmanager(tmp_path, urls, by=_BY) as running:
        yield running


def burn(tier: str, *, slo: str = "availability", service: str = "postfacta") -> Mapping[str, str]:
    severity = "page" if tier in {"fast", "medium"} else "ticket"
    return {**_BURN, "slo": slo, "service": service, "burnrate_tier": tier, "severity": severity}


def test_a_faster_tier_silences_the_slower_ones_of_its_own_service_and_objective_alone(
    alertmanager: Alertmanager, sink: Sink
) -> None:
    alertmanager.send(
        burn("fast"),
        burn("slow"),
        burn("slow", slo="latency-p95"),
        burn("slow", service="billing"),
    )
    page = sink.wait_for("pager", within=60)
    assert page.labels["burnrate_tier"] == "fast"
    # Both tickets that are not its own business; they come in two groups.
    for other in ({"slo": "latency-p95"}, {"service": "billing"}):
        deadline = time.monotonic() + 60
        while not any(other.items() <= one.labels.items() for one in sink.arrivals("ticket")):
            assert time.monotonic() < deadline, sink.arrivals("ticket")
            time.sleep(0.05)  # noqa: TID251 - a test's own thread
    states = {
        (one["labels"]["service"], one["labels"]["slo"], one["labels"]["burnrate_tier"]): one[
            "status"
        ]["state"]
        for one in alertmanager.alerts()
    }
    assert states == {
        ("postfacta", "availability", "fast"): "active",
        ("postfacta", "availability", "slow"): "suppressed",
        ("postfacta", "latency-p95", "slow"): "active",
        ("billing", "availability", "slow"): "active",
    }
    told = {(one.labels["service"], one.labels["slo"]) for one in sink.arrivals("ticket")}
    assert told == {("postfacta", "latency-p95"), ("billing", "availability")}


def test_one_outage_is_one_page_with_its_resolution(alertmanager: Alertmanager, sink: Sink) -> None:
    down = {
        "alertname": "PostfactaDown",
        "service": "postfacta",
        "severity": "page",
        "component": "http",
    }
    journey = {**down, "alertname": "PostfactaJourneyProbeFailing"}
    elsewhere = {**journey, "service": "billing"}
    alertmanager.send(down, journey, elsewhere, burn("fast"))
    sink.wait_for("pager", name="PostfactaDown", within=60)
    sink.wait_for("pager", name="PostfactaJourneyProbeFailing", within=60)
    paged = {(one.name, one.labels["service"]) for one in sink.arrivals("pager")}
    assert paged == {("PostfactaDown", "postfacta"), ("PostfactaJourneyProbeFailing", "billing")}
    assert len(sink.posts("pager")) == 2
    alertmanager.send(down, lasting=0)
    resolved = sink.wait_for("pager", name="PostfactaDown", status="resolved", within=60)
    assert resolved.group == {"service": "postfacta"}


def test_an_annotation_arrives_as_it_was_sent(alertmanager: Alertmanager, sink: Sink) -> None:
    link = {"runbook_url": "https://git.example.org/docs/runbooks/ValkeyDown.md"}
    alert = {"alertname": "ValkeyDown", "service": "postfacta", "severity": "ticket"}
    alertmanager.send(alert, annotations=link)
    assert sink.wait_for("ticket", within=60).annotations == link


def test_the_watchdog_goes_to_the_dead_mans_switch_again_and_again(
    alertmanager: Alertmanager, sink: Sink
) -> None:
    alertmanager.send({"alertname": "Watchdog", "service": "monitoring", "severity": "none"})
    first = sink.wait_for_post("deadman", within=60)
    again = sink.wait_for_post("deadman", after=first + 0.001, within=60)
    # Every minute or two, and a dead man's patience is ten.
    assert (again - first) * _BY < 300
    assert not sink.posts("pager")
    assert not sink.posts("ticket")


def test_what_a_receiver_refused_is_tried_again_until_it_takes_it(
    alertmanager: Alertmanager, sink: Sink
) -> None:
    sink.answer = 503
    alertmanager.send({"alertname": "ValkeyDown", "service": "postfacta", "severity": "ticket"})
    with pytest.raises(
        TimeoutError, match=r"an alert firing at ticket: not within 3 s; what came: none"
    ):
        sink.wait_for("ticket", within=3)
    sink.answer = 200
    assert sink.wait_for("ticket", within=60).name == "ValkeyDown"


def test_waits_are_divided_and_nothing_else_is() -> None:
    config = {
        "route": {"group_wait": "1m30s", "receiver": "5m", "routes": [{"repeat_interval": "4h"}]}
    }
    assert compress(config, 10) == {
        "route": {
            "group_wait": "9000ms",
            "receiver": "5m",
            "routes": [{"repeat_interval": "1440000ms"}],
        }
    }


def test_a_wait_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'soon'"):
        compress({"group_wait": "soon"}, 10)
