"""The pages, as a person meets them: in a real Chromium."""

from __future__ import annotations

from uuid import uuid4

import pytest
from playwright.sync_api import Browser, StorageState

from tests.app.browsing import NEEDS_CHROMIUM
from tests.app.running import LiveService
from tests.kit.every import every

pytestmark = NEEDS_CHROMIUM


PATHS = [
    *("/signin", "/incidents", "/problems/validation", "/nowhere"),
    *("/incidents/new", "/insights", "/actions"),
]


@pytest.mark.parametrize("width", [320, 1280])
def test_no_page_scrolls_sideways(
    browser: Browser, live: LiveService, session: StorageState, width: int
) -> None:
    long = {"services": ["a" * 63, "b" * 63], "owner": "o" * 100, "reporter": "r" * 100}
    made = live.record(title="W" * 200, description="unbroken" * 200, **long)
    context = browser.new_context(
        base_url=live.url, viewport={"width": width, "height": 800}, storage_state=session
    )
    page = context.new_page()
    with every() as case:
        for path in (*PATHS, f"/incidents/INC-{made['number']}"):
            with case(path):
                page.goto(path)
                page.evaluate("document.querySelectorAll('details').forEach(it => it.open = true)")
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert page.locator("h1").count() == 1
    context.close()


def test_the_keyboard_alone_is_enough_to_sign_in(browser: Browser, live: LiveService) -> None:
    who = live.person()
    context = browser.new_context(base_url=live.url)
    page = context.new_page()
    page.goto("/signin")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.focus("#email")
    page.keyboard.type(who.email)
    page.keyboard.press("Tab")
    page.keyboard.type(who.password)
    page.keyboard.press("Enter")
    page.wait_for_url("**/incidents")
    context.close()


def test_charts_have_descriptions(
    browser: Browser, live: LiveService, session: StorageState
) -> None:
    name = f"s{uuid4().hex}"
    live.record(title="In the charts", severity="HIGH", services=[name])
    context = browser.new_context(base_url=live.url, storage_state=session)
    page = context.new_page()
    page.goto(f"/insights?service={name}")
    chart = page.get_by_role("img", name="Incidents per week, by severity")
    assert "High: 1 in 4 weeks." in (chart.locator("desc").text_content() or "")
    assert chart.locator("rect.mark").count() == 1
    page.click("section:has(#weeks) summary")
    assert page.locator("section:has(#weeks) tbody tr").count() == 1
    assert "n = 0, 1 unknown, 0 contradictory" in (page.text_content("main") or "")
    context.close()
