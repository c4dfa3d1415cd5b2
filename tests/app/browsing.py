"""A real Chromium for tests of pages, and what they measure in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.app.running import ADMIN, Account

if TYPE_CHECKING:  # the fast tests do without Chromium
    from playwright.sync_api import Browser, Page, StorageState

__all__ = ["CONTRAST", "NEEDS_CHROMIUM", "chromium", "session_of", "sign_in"]

_CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
# Without its background services it asks nobody else; as root it has no sandbox.
_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
NEEDS_CHROMIUM = pytest.mark.skipif(
    _CHROMIUM is None and "TEST_REQUIRE_ALL" not in os.environ,
    reason="there is no Chromium: install the package",
)


@contextmanager
def chromium() -> Generator[Browser]:
    """Run it until the block ends.

    Begin with it after all else that runs: while Playwright is on, its event loop runs in this
    thread, and no other can.
    """
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - the fast tests do without

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
        yield running
        running.close()


def sign_in(page: Page, who: Account) -> None:
    """Fill in the form of the sign-in page."""
    page.fill("#email", who.email)
    page.fill("#password", who.password)
    page.click("main button")


def session_of(browser: Browser, url: str, who: Account = ADMIN) -> StorageState:
    """Sign in once, for contexts that are to be signed in."""
    with browser.new_context(base_url=url) as context:
        page = context.new_page()
        page.goto("/signin")
        sign_in(page, who)
        page.wait_for_url(f"{url}/incidents")
        return context.storage_state()


# The lowest contrast of all text on the page, by WCAG's formula, against the nearest ground that is
# painted.
CONTRAST = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let worst = {ratio: 99, text: ""};
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length) continue;
    let ground = element;
    while (ground && rgb(getComputedStyle(ground).backgroundColor)[3] === 0) ground = ground.parentElement;
    const [a, b] = [getComputedStyle(element).color, getComputedStyle(ground ?? document.body).backgroundColor]
      .map(rgb).map(light).sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < worst.ratio) worst = {ratio, text: element.textContent.trim().slice(0, 60)};
  }
  return worst;
}"""
