"""A real Alertmanager tells PostFacta of its alerts as the example says, and they become an incident's timeline."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

from chaos.alertmanager import Alertmanager, told_too
from chaos.sink import Sink
from postfacta_app.migrations import upgrade
from postfacta_embedded import EmbeddedPostgres
from postfacta_lab.engine.processes import wait_until
from tests.app.running import LiveService, live_service
from tests.kit.pg import create_database
from tests.ops.alerting.rules import needs_alertmanager

pytestmark = [needs_alertmanager, pytest.mark.usefixtures("programs")]
ALERT = {
    "alertname": "CheckoutErrorRatio",
    "service": "checkout",
    "env": "prod",
    "severity": "page",
}
_BY = 100.0
"""How much shorter its waits are: half a minute for a first notification is a third of a second."""


@pytest.fixture(scope="module")
def live(postgres_server: EmbeddedPostgres) -> Generator[LiveService]:
    """Run the service for the tests of this module."""
    upgrade(create_database(postgres_server, "kept_alerts_template"), progress=lambda _: None)
    with live_service(postgres_server, "kept_alerts_template") as service:
        yield service


@pytest.fixture
def alertmanager(live: LiveService, tmp_path: Path) -> Generator[tuple[Alertmanager, Sink]]:
    """Run one that tells the service with a token of its own, and a pager."""
    new = {"name": "alertmanager", "scopes": ["signals:write"], "source": "alertmanager"}
    token = live.client.post("/api/v1/tokens", json=new).raise_for_status().json()["secret"]
    config = tmp_path / "merged.yml"
    config.write_text(json.dumps(told_too(live.url)))
    with Sink() as sink:
        secrets = {f"{name}_url": sink.url(name) for name in ("pager", "ticket", "deadman")}
        secrets["postfacta_token"] = token
        with Alertmanager(tmp_path / "run", secrets, by=_BY, config=config) as running:
            yield running, sink


def signals(live: LiveService, kind: str) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = live.client.get(
        "/api/v1/signals", params={"kind": kind}
    ).json()["items"]
    return found


@pytest.mark.usefixtures("programs")
def test_an_alert_becomes_a_signal_and_attached_the_timeline_of_an_incident(
    live: LiveService, alertmanager: tuple[Alertmanager, Sink]
) -> None:
    sender, sink = alertmanager
    sender.send(ALERT, annotations={"summary": "18 % of the checkouts fail"})
    wait_until(lambda: bool(signals(live, "alert_firing")), "the alert is a signal", within=30)
    (firing,) = signals(live, "alert_firing")
    assert (firing["source"], firing["title"], firing["services"]) == (
        "alertmanager",
        "CheckoutErrorRatio",
        ["checkout"],
    )
    assert (
        sink.wait_for("pager", within=30).name == "CheckoutErrorRatio"
    )  # Whoever was to be told still is.

    sender.send(ALERT, annotations={"summary": "Other words, as templates have them"}, lasting=0)
    wait_until(lambda: bool(signals(live, "alert_resolved")), "its end is a signal", within=30)
    # The notification of the end tells of the beginning again, and that is no new fact.
    assert [one["id"] for one in signals(live, "alert_firing")] == [firing["id"]]

    ref = live.record(services=["checkout"], severity="HIGH")["id"]
    found = live.client.get(
        "/api/v1/signals", params={"service": "checkout", "attached": "false"}
    ).json()
    ids = [one["id"] for one in found["items"]]
    attached = live.client.post(f"/api/v1/incidents/{ref}/signals", json={"ids": ids}).json()[
        "results"
    ]
    assert [one["result"] for one in attached] == ["attached", "attached"]
    timeline = live.client.get(f"/api/v1/incidents/{ref}/timeline").json()["items"]
    assert [entry["kind"] for entry in timeline] == ["alert_firing", "alert_resolved", "status"]
    detected = live.client.get(f"/api/v1/incidents/{ref}/durations").json()["milestones"][
        "detected"
    ]
    assert detected["basis"] == "derived"
    assert detected["t"] == timeline[0]["t"]
