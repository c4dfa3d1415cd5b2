"""What others write comes into an open page, and nothing moves under the one who reads or writes."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from playwright.sync_api import Browser, Page, StorageState, expect

from tests.app.browsing import NEEDS_CHROMIUM
from tests.app.running import LiveService

pytestmark = NEEDS_CHROMIUM
# A headless browser hides no tab.
SEEN = """({ hidden }) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


class Incident:
    """An incident that a colleague writes to."""

    def __init__(self, live: LiveService) -> None:
        made = live.record()
        self.path = f"/incidents/INC-{made['number']}"
        self._client = live.client
        self._api = f"/api/v1/incidents/{made['id']}/annotations"

    def note(self, text: str) -> None:
        answer = self._client.post(
            self._api, json={"kind": "note", "body": text, "occurred_at": "2026-02-07T10:05:00Z"}
        )
        assert answer.status_code == 201, answer.text


@pytest.fixture
def incident(live: LiveService) -> Incident:
    return Incident(live)


@pytest.fixture
def page(
    browser: Browser, live: LiveService, session: StorageState, incident: Incident
) -> Generator[Page]:
    context = browser.new_context(base_url=live.url, storage_state=session)
    opened = context.new_page()
    refused: list[str] = []
    opened.on("console", lambda message: refused.append(message.text))
    with opened.expect_request("**/events"):
        opened.goto(incident.path)
    yield opened
    context.close()
    assert refused == []


def test_a_colleagues_note_comes_while_a_line_is_typed(page: Page, incident: Incident) -> None:
    line = page.locator("#capture-body")
    line.fill("Half a sente")
    incident.note("The cache is cold")
    expect(page.locator("article h4", has_text="The cache is cold")).to_be_visible(timeout=20_000)
    expect(line).to_be_focused()
    line.press_sequentially("nce")
    assert line.input_value() == "Half a sentence"


def test_a_part_in_use_is_left_and_shown_anew_once_its_user_is_done(
    page: Page, incident: Incident
) -> None:
    incident.note("First")
    first = page.locator("article", has_text="First")
    first.locator("summary", has_text="Correct or annotate").click(timeout=20_000)
    field = first.locator("input[name=value]:visible").first
    field.fill("2026-02-07 10:02")
    incident.note("Second")
    expect(page.locator("#live")).to_contain_text("has changed", timeout=20_000)
    assert field.input_value() == "2026-02-07 10:02"
    expect(page.locator("article", has_text="Second")).to_have_count(0)


def test_what_is_read_does_not_move(page: Page, incident: Incident) -> None:
    for number in range(30):
        incident.note(f"Line {number}")
    expect(page.locator("article h4", has_text="Line 29")).to_be_visible(timeout=20_000)
    page.locator("article h4", has_text="Line 5").first.scroll_into_view_if_needed()
    top = "() => [...document.querySelectorAll('article')].find((it) => it.textContent.includes('Line 5'))"
    before = page.evaluate(f"({top})().getBoundingClientRect().top")
    incident.note("News")
    expect(page.locator("article h4", has_text="News")).to_have_count(1, timeout=20_000)
    assert abs(page.evaluate(f"({top})().getBoundingClientRect().top") - before) < 2


def test_a_tab_that_is_not_seen_has_no_stream_and_catches_up(
    page: Page, incident: Incident
) -> None:
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/events")):
        page.evaluate(SEEN, {"hidden": True})
    incident.note("While no one looked")
    with page.expect_request("**/events"):
        page.evaluate(SEEN, {"hidden": False})
    expect(page.locator("article h4", has_text="While no one looked")).to_be_visible(timeout=20_000)
