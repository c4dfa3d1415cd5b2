"""axe finds nothing wrong on any page, full or empty, in light and in dark, wide and narrow."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped] # it has no types
from playwright.sync_api import Page

from tests.app.browsing import NEEDS_CHROMIUM, chromium, session_of
from tests.app.running import Account, demo
from tests.kit.pg import open_folder

pytestmark = NEEDS_CHROMIUM

FULL, EMPTY = "/incidents/INC-4", "/incidents/INC-2"
PATHS = [
    *(
        "/incidents",
        "/incidents?q=nothing+has+this+word",
        "/incidents?service=NOT+A+SLUG",
        "/incidents/new",
        "/insights",
        "/actions",
        "/actions?owner=nobody",
        "/actions?status=NONE",
    ),
    *(
        f"{one}{tab}"
        for one in (FULL, EMPTY)
        for tab in ("", "/postmortem", "/actions", "/history")
    ),
    *(
        f"{FULL}?include_hidden=true",
        f"{FULL}/postmortem/revisions",
        f"{FULL}/postmortem/revisions/2?against=1",
    ),
    *(
        f"{EMPTY}/postmortem/edit/{section}"
        for section in ("summary", "impact", "trigger", "factors", "went_well")
    ),
    *("/reliability", "/problems/validation", "/nowhere", "/signin", "/account", "/people"),
]
LOOKS = {"light, wide": (1280, "light"), "dark, narrow": (320, "dark")}


@pytest.fixture(scope="module")
def opened(chromiums: None) -> Generator[Callable[..., Page]]:
    """Run the demo; give what opens a page of it, signed in."""
    with open_folder() as folder, demo(Path(folder)) as (_, printed), chromium() as browser:
        found = re.search(
            r"sign in as +(\S+)\n +password +(\S+)(?s:.*)listening on (http://\S+?);", printed
        )
        assert found is not None
        who, url = Account(found[1], found[2]), found[3]
        session = session_of(browser, url, who)
        yield partial(browser.new_page, base_url=url, storage_state=session)


@pytest.fixture(scope="module", params=LOOKS)
def page(opened: Callable[..., Page], request: pytest.FixtureRequest) -> Page:
    """A page of the demo, signed in."""
    width, scheme = LOOKS[request.param]
    return opened(viewport={"width": width, "height": 800}, color_scheme=scheme)


@pytest.mark.parametrize("path", PATHS)
def test_axe_finds_nothing_and_no_page_scrolls_sideways(page: Page, path: str) -> None:
    page.goto(path)
    page.evaluate("document.querySelectorAll('details').forEach(it => { it.open = true })")
    width = page.viewport_size["width"] if page.viewport_size else 0
    assert 0 < page.evaluate("document.documentElement.scrollWidth") <= width
    results = Axe().run(page)  # pyright: ignore[reportUnknownMemberType] # it has no types
    assert results.violations_count == 0, results.generate_report()


def test_axe_finds_nothing_in_a_form_with_mistakes(page: Page) -> None:
    page.goto("/incidents/new")
    page.click("main button")
    assert page.locator(".wrong").count() == 2
    results = Axe().run(page)  # pyright: ignore[reportUnknownMemberType] # it has no types
    assert results.violations_count == 0, results.generate_report()
