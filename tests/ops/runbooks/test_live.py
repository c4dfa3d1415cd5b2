"""Every command of every runbook does what it should on a live stack.

What says "recovered" does not say so during a fault. This is evidence;
`test_runbooks.py` reads all of them in CI.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from chaos.alertmanager import Alertmanager
from chaos.prometheus import RULES, Prometheus
from chaos.runbooks import Block, Runbook, run
from chaos.sink import Sink
from chaos.stack import Stack, prepare
from postfacta_embedded.binaries import find_binaries
from postfacta_lab.engine.processes import wait_until
from tests.kit.every import every
from tests.kit.pg import open_folder
from tests.ops.alerting.rules import needs_alertmanager, needs_promtool, program
from tests.ops.runbooks.reading import books

_BY = 15.0
"""Prometheus looks every second instead of every 15; the rules keep their windows."""

_CLIENTS = find_binaries().folder
"""PostgreSQL's programs of the server's own version: `pg_dump` refuses a newer server."""

pytestmark = [
    pytest.mark.usefixtures("programs"),
    pytest.mark.long,
    needs_promtool,
    needs_alertmanager,
    pytest.mark.skipif(
        program("curl") is None and "TEST_REQUIRE_ALL" not in os.environ,
        reason="curl is not installed (Debian: apt-get install curl)",
    ),
]


@dataclass
class Live:
    """What runs, and how the runbooks' variables are set for it."""

    stack: Stack
    prometheus: Prometheus
    alertmanager: Alertmanager

    @property
    def environment(self) -> dict[str, str]:
        return {
            "APP_URL": self.stack.url,
            "METRICS_TOKEN": "",
            "ADMIN_TOKEN": self.stack.token,
            "PROMETHEUS_URL": self.prometheus.url,
            "ALERTMANAGER_URL": self.alertmanager.url,
            "DATABASE_URL": self.stack.dsn(),
            "PATH": f"{_CLIENTS}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }


@pytest.fixture(scope="module")
def live(programs: None) -> Generator[Live]:
    """Run the service, its database, and what watches and tells."""
    with open_folder() as folder, Sink() as sink:
        urls = {f"{name}_url": sink.url(name) for name in ("pager", "ticket", "deadman")}
        with (
            Stack(folder / "stack", prepare(folder / "template"), instances=1) as stack,
            Alertmanager(folder / "alertmanager", urls, by=_BY) as alertmanager,
        ):
            at = alertmanager.url.removeprefix("http://")
            targets = {"postfacta": [stack.url.removeprefix("http://")], "alertmanager": [at]}
            rules = sorted(RULES.glob("*.yml"))
            with _watching(folder, targets, rules, at) as prometheus:
                sink.wait_for_post("deadman", within=60)
                wait_until(
                    lambda: len(prometheus.query("up == 1")) == 3, "all is scraped", within=60
                )
                wait_until(lambda: _has_settled(prometheus), "rates have two samples", within=60)
                yield Live(stack, prometheus, alertmanager)


def _watching(
    folder: Path, targets: dict[str, list[str]], rules: list[Path], at: str
) -> Prometheus:
    prometheus = Prometheus(folder / "prometheus", targets, rules=rules, alertmanagers=[at], by=_BY)
    prometheus.targets["prometheus"] = [prometheus.url.removeprefix("http://")]
    prometheus.reconfigure()
    return prometheus


def _has_settled(prometheus: Prometheus) -> bool:
    return bool(prometheus.query('rate(process_cpu_seconds_total{job="postfacta"}[1m])'))


def blocks(*roles: str) -> list[tuple[Runbook, Block]]:
    return [(book, block) for book in books() for block in book.blocks if block.role in roles]


def book_of(name: str) -> Runbook:
    (found,) = [book for book in books() if book.name == name]
    return found


def test_a_diagnosis_answers(live: Live) -> None:
    with every() as case:
        for book, block in blocks("diagnose"):
            with case(f"{book.name}:{block.line}"):
                done = run(block, live.environment)
                assert (done.code, "no answer" in done.output) == (0, False), done
                assert not done.errors.strip(), done.errors


@pytest.mark.parametrize(
    ("book", "block"),
    blocks("mitigate"),
    ids=[f"{book.name}:{block.line}" for book, block in blocks("mitigate")],
)
def test_a_mitigation_can_be_carried_out_and_leaves_the_service_well(
    book: Runbook, block: Block, live: Live
) -> None:
    done = run(block, live.environment)
    assert done.code == 0, done
    assert httpx2.get(f"{live.stack.url}/healthz/ready", timeout=5.0).status_code == 200


def test_a_verification_sees_that_all_is_well(live: Live) -> None:
    with every() as case:
        for book, block in blocks("verify"):
            with case(f"{book.name}:{block.line}"):
                done = run(block, live.environment)
                assert done.code == 0, done


def verdicts(name: str, live: Live, role: str) -> set[int]:
    return {min(1, run(block, live.environment).code) for block in book_of(name).of(role)}


@pytest.mark.parametrize("name", ["PostfactaDatabaseUnavailable", "database-unavailable"])
def test_while_the_database_is_away_a_diagnosis_works_and_nothing_says_recovered(
    name: str, live: Live
) -> None:
    live.stack.postgres.stop()
    try:
        assert verdicts(name, live, "diagnose") == {0}
        assert verdicts(name, live, "verify") == {1}
    finally:
        live.stack.restore()


def test_while_the_service_is_away_a_diagnosis_works_and_nothing_says_recovered(live: Live) -> None:
    live.stack.instances[0].kill()
    try:
        assert verdicts("PostfactaDown", live, "diagnose") == {0}
        assert verdicts("PostfactaDown", live, "verify") == {1}
    finally:
        live.stack.restore()


def test_without_prometheus_nothing_says_recovered(live: Live) -> None:
    broken = {**live.environment, "PROMETHEUS_URL": "http://127.0.0.1:9"}
    asking = [block for _, block in blocks("verify") if "promtool" in block.script]
    assert len(asking) > 30
    assert all(run(block, broken).code != 0 for block in asking)
