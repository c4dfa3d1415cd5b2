"""The page `/reliability` in a real Chromium, with budgets from a real Prometheus that has thirty days behind it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, StorageState

from postfacta_core.clock import WALL
from postfacta_embedded import EmbeddedPostgres
from tests.app.browsing import CONTRAST, NEEDS_CHROMIUM, chromium, sign_in
from tests.app.running import ADMIN, command, sign_in as get_token, started
from tests.kit.pg import fresh_database
from tests.ops.prometheus import Prometheus, scrape_config
from tests.ops.slo.history import EVERY, Series, write_blocks

MISSING = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
pytestmark = [
    NEEDS_CHROMIUM,
    pytest.mark.skipif(
        bool(MISSING) and "TEST_REQUIRE_ALL" not in os.environ,
        reason="needs prometheus: install the package",
    ),
]
PATIENCE = 30.0
# Minutes before now in which each objective was bad.
BAD = {
    "availability": (2_880, 3_060),
    "latency-p95": (9_000, 9_500),
    "latency-p99": (20_000, 20_060),
}


def _history() -> list[Series]:
    def of(slo: str) -> dict[str, str]:
        return {"service": "postfacta", "slo": slo}

    def constant(value: float, _: float) -> float:
        return value

    def is_bad(slo: str, days: float) -> float:
        first, last = BAD[slo]
        return float(first < days * 1440 <= last)

    aims = {**dict.fromkeys(BAD, 0.99), "success-rate": 0.995}
    return [
        *(
            Series("slo:objective:ratio", of(slo), partial(constant, aim))
            for slo, aim in aims.items()
        ),
        *(Series("slo:slice_bad:bool", of(slo), partial(is_bad, slo)) for slo in BAD),
        *(Series("slo:sli_error:ratio_rate6h", of(slo), lambda _: 0.004) for slo in aims),
        Series("slo:sli_bad:rate5m", of("success-rate"), lambda days: 0.01 if days < 20 else 0.0),
        Series("slo:sli_total:rate5m", of("success-rate"), lambda _: 12.0),
    ]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Generator[Prometheus]:
    folder = tmp_path_factory.mktemp("month")
    write_blocks(folder, _history(), int(WALL()) // EVERY * EVERY)
    with Prometheus(folder, scrape_config({}), keep="90d") as running:
        yield running


@pytest.fixture(scope="module")
def url(
    prometheus: Prometheus, postgres_server: EmbeddedPostgres, app_template: str
) -> Generator[str]:
    """Run the service beside its Prometheus, with an administrator."""
    with fresh_database(postgres_server, app_template) as dsn:
        environment = {
            "POSTFACTA_DATABASE_DSN": dsn,
            "POSTFACTA_PROMETHEUS_URL": prometheus.url,
            "POSTFACTA_READY_REQUIRES_DB": "false",
            "LOG_LEVEL": "ERROR",
        }
        who = ("--email", ADMIN.email, "--name", "Admin", "--password-stdin")
        command(
            "user",
            "add",
            "--role",
            "admin",
            *who,
            environment=environment,
            given=ADMIN.password + "\n",
        )
        with started(environment=environment) as (_, address):
            with httpx2.Client(base_url=address) as client:
                get_token(client, ADMIN)
            yield address


@pytest.fixture(scope="module")
def browser(chromiums: None, url: str) -> Generator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def session(browser: Browser, url: str) -> StorageState:
    with browser.new_context(base_url=url) as context:
        page = context.new_page()
        page.goto("/signin")
        sign_in(page, ADMIN)
        page.click("text=Reliability")
        assert page.url == f"{url}/reliability"
        return context.storage_state()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_a_person_sees_budgets_checks_and_protection_on_any_screen(
    browser: Browser, url: str, session: StorageState, width: int, scheme: str, tmp_path: Path
) -> None:
    context = browser.new_context(
        base_url=url,
        viewport={"width": width, "height": 800},
        color_scheme="dark" if scheme == "dark" else "light",
        storage_state=session,
    )
    page = context.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto("/reliability")
    until = time.monotonic() + PATIENCE
    while not page.locator("svg.plot").count() and time.monotonic() < until:
        page.reload()  # It has not been read yet.
    assert page.locator("h1").count() == 1
    assert page.locator("nav a[aria-current]").text_content() == "Reliability"
    assert page.locator("article h3").all_text_contents()[:4] == [
        "availability: 99 %",
        "latency-p95: 99 %",
        "latency-p99: 99 %",
        "success-rate: 99.5 %",
    ]
    # 180 of 432 minutes, and 500 of them.
    tags = page.locator("article .tag").all_text_contents()
    assert tags[0].startswith("58.")
    assert tags[1] == "budget exhausted"
    assert page.locator("svg.plot").count() == 4
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    worst = page.evaluate(CONTRAST)
    assert worst["ratio"] >= 4.5, worst
    stroke = page.evaluate("getComputedStyle(document.querySelector('.plot-curve')).stroke")
    assert stroke != "none"
    shot = Path(os.environ.get("SHOTS", tmp_path)) / f"reliability-{width}-{scheme}.png"
    page.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 10_000
    assert refused == []
    context.close()
