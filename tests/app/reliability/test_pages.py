"""The page `/reliability`, inside the application, with and without a Prometheus."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from postfacta_app.db import repeating
from postfacta_app.reliability.about import About, load_codebase, show
from postfacta_app.settings import SettingsError, load_settings
from postfacta_app.web.render import Pages
from postfacta_core.health.registry import HealthRegistry
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import ManualClock, RecordingObserver
from postfacta_slo.status.prometheus import Prometheus
from postfacta_slo.status.watch import Watch
from tests.app.live import Service, in_process
from tests.slo.told import Told

PATIENCE = 30.0
HTML = {"Accept": "text/html"}


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    limits: dict[str, Any] = {"rate_address": "100000/minute", "rate_read": "100000/minute"}
    async with in_process(shared_app_dsn, **limits) as running:
        yield running


def plain(html: str) -> str:
    """What is left of a page without its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


async def page_of(service: Service) -> str:
    answer = await service.client.get(
        "/reliability", headers=HTML | await service.as_role("viewer")
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/html")
    return plain(answer.text)


async def until_told(service: Service, words: str) -> str:
    with anyio.fail_after(PATIENCE):
        while words not in (page := await page_of(service)):
            await anyio.sleep(0.02)
    return page


async def test_a_stranger_is_led_to_sign_in(service: Service) -> None:
    answer = await service.client.get("/reliability", headers=HTML)
    assert (answer.status_code, answer.headers["location"]) == (303, "/signin?next=/reliability")


async def test_without_a_prometheus_it_names_the_setting(service: Service) -> None:
    assert "POSTFACTA_PROMETHEUS_URL is not set" in await page_of(service)


async def test_the_checks_are_there_with_their_age(service: Service) -> None:
    page = await until_told(service, "✓ up")
    assert re.search(r"database (✓ up|✕ \w+) no \d+ s (\d+ s ago|never)", page)
    assert "schema" in page
    assert "durability" in page


async def test_what_protects_the_service_is_there_with_its_numbers(service: Service) -> None:
    page = await page_of(service)
    assert re.search(r"Circuit breaker postgres Closed Calls [\d,]+ Failed 0 Rejected 0", page)
    assert re.search(r"Connection pool postgres Used \d of 10 Idle \d Waiting 0 Timed out 0", page)
    # The request for the page itself is in flight.
    assert re.search(r"Load shedding: requests In flight 1 of \d+ Waiting 0 Rejected 0", page)
    assert re.search(r"Rate limit address Rejected 0", page)
    assert re.search(r"Rate limit read Rejected 0", page)


async def test_with_a_prometheus_it_shows_the_budgets_of_thirty_days(
    shared_app_dsn: str, told: Told
) -> None:
    async with in_process(shared_app_dsn, prometheus_url=told.url) as service:
        page = await until_told(service, "availability: 99 %")
        assert "60 % of the budget left" in page
        assert f"from {told.url}" in page
        assert "Remaining 259 min (60 %)" in page
        answer = await service.client.get(
            "/reliability", headers=HTML | await service.as_role("viewer")
        )
        assert '<path class="plot-curve"' in answer.text


async def test_without_our_rules_the_page_asks_to_load_them(
    shared_app_dsn: str, told: Told
) -> None:
    told.broken = '{"status": "success", "data": {"resultType": "vector", "result": []}}'
    async with in_process(shared_app_dsn, prometheus_url=told.url) as service:
        await until_told(service, "load the generated rules")


async def test_no_page_waits_for_a_prometheus_that_hangs(shared_app_dsn: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with in_process(shared_app_dsn, prometheus_url=url) as service:
            asked, _ = await anyio.to_thread.run_sync(silent.accept)
            with anyio.fail_after(PATIENCE):
                page = await page_of(service)
        asked.close()
    assert f"Nothing has been read from {url} yet." in page


async def test_a_prometheus_that_never_answers_does_not_hold_up_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        prometheus = Prometheus(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=2 * PATIENCE)
        look = partial(
            anyio.to_thread.run_sync,
            Watch("postfacta", lambda: prometheus).look,
            abandon_on_cancel=True,
        )
        with anyio.fail_after(PATIENCE):
            async with repeating("objectives", look, observer=RecordingObserver(), interval=5.0):
                asked, _ = await anyio.to_thread.run_sync(silent.accept)
        asked.close()


async def test_a_prometheus_that_does_not_answer_in_time_is_reported(shared_app_dsn: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://ada:hunter2@127.0.0.1:{silent.getsockname()[1]}"
        async with in_process(shared_app_dsn, prometheus_url=url) as service:
            viewer = HTML | await service.as_role("viewer")
            answer = await service.client.get("/reliability", headers=viewer)
            assert "Nothing has been read from" in answer.text
            # Once a question to it has ended, after a second.
            page = await until_told(service, "did not answer in time")
    assert "hunter2" not in page


def an_about(watch: Watch | None = None) -> About:
    return About(load_codebase(), "local", HealthRegistry(), Metrics(with_process=False), watch)


async def drawn(about: About) -> str:
    page = await show(about)
    return plain(
        bytes(Pages(version="1").page(page.template, {**page.context, **page.more()}).body).decode()
    )


async def test_a_prometheus_that_fails_later_leaves_its_last_figures_with_their_age(
    told: Told,
) -> None:
    clock = ManualClock()
    watch = Watch("postfacta", lambda: Prometheus(told.url), interval=0, clock=clock)
    about = an_about(watch)
    watch.look()
    page = await drawn(about)
    assert "Over the last 30 days" in page
    assert "These figures are" not in page
    told.broken = "<html>"
    watch.look()
    assert "is the address right?" in await drawn(about)
    clock.advance(190)
    page = await drawn(about)
    assert "These figures are 3 min old." in page
    assert "60 % of the budget left" in page


async def test_figures_that_were_not_read_again_are_old(told: Told) -> None:
    clock = ManualClock()
    watch = Watch("postfacta", lambda: Prometheus(told.url), clock=clock)
    watch.look()
    clock.advance(181)
    assert "These figures are 3 min old." in await drawn(an_about(watch))


async def test_a_process_that_has_just_begun_has_a_page_too() -> None:
    page = await drawn(an_about())
    assert "Counts since this process started" in page
    assert "Circuit breaker" not in page


@pytest.mark.parametrize(
    "url", ["prometheus:9090", "ftp://prometheus", "http://p:9090/?x=hunter2", ""]
)
def test_an_address_that_is_none_stops_the_start(url: str) -> None:
    with pytest.raises(SettingsError, match="POSTFACTA_PROMETHEUS_URL") as caught:
        load_settings({}, prometheus_url=url)
    assert "hunter2" not in str(caught.value)
