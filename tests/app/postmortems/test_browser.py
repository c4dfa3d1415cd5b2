"""A post-mortem from its first section to its publication, in a real Chromium, with and without JavaScript."""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, StorageState

from tests.app.browsing import CONTRAST, NEEDS_CHROMIUM
from tests.app.running import LiveService

pytestmark = NEEDS_CHROMIUM
TITLE = "Checkout is down " + "W" * 183
LISTS = ("went_well", "went_poorly", "got_lucky", "surprises", "open_questions")


def _edit(page: Page, section: str, **fields: str) -> None:
    page.click(f".part-head:has(#{section}) .edit")
    for name, text in fields.items():
        field = page.locator(f"[name={name.replace('__', '-')}]")
        if field.evaluate("it => it.tagName") == "SELECT":
            field.select_option(text)
        else:
            field.fill(text)
    page.click("text=Save >> nth=0")


def _write_all(page: Page) -> None:
    _edit(page, "summary", summary="The checkout was **down** for an hour.\n\n- Nobody could pay")
    _edit(page, "detection", detection__how="A customer called.")
    _edit(page, "trigger", trigger__kind="config", trigger__description="A time-out of 0 ms.")
    _edit(page, "response", response="We rolled back.")
    for name in LISTS:
        _edit(page, name, **{name: "One thing\nAnother thing"})


@dataclass
class Visit:
    """A visit of the pages, with a picture of each."""

    page: Page
    name: str
    shots: Path

    def look(self, name: str) -> None:
        """See that the page fits the screen, that its text stands out, and that a finger can meet its controls."""
        page = self.page
        page.screenshot(path=self.shots / f"{name}-{self.name}.png", full_page=True)
        width = page.viewport_size["width"] if page.viewport_size else 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.locator("h1").count() == 1
        worst = page.evaluate(CONTRAST)
        assert worst["ratio"] >= 4.5, (name, worst)
        assert page.evaluate(SMALL) == [], name

    def go(self, tab: str) -> None:
        self.page.click(f"nav.tabs >> text={tab}")

    def text(self, place: str) -> str:
        return self.page.locator(place).first.text_content() or ""


@pytest.fixture(params=[(320, "dark", False), (1280, "light", True)], ids=["phone", "desk"])
def visit(
    request: pytest.FixtureRequest,
    browser: Browser,
    live: LiveService,
    session: StorageState,
    tmp_path: Path,
) -> Generator[Visit]:
    width, scheme, has_script = request.param
    context = browser.new_context(
        base_url=live.url,
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
        java_script_enabled=has_script,
        storage_state=session,
    )
    page = context.new_page()
    refused: list[str] = []
    page.on(
        "console", lambda it: refused.append(it.text) if "Content Security" in it.text else None
    )
    yield Visit(page, f"{width}-{scheme}", Path(os.environ.get("SHOTS", tmp_path)))
    context.close()
    assert refused == []


def test_a_responder_writes_publishes_and_sees_late_facts(visit: Visit, live: LiveService) -> None:
    incident = live.record(title=TITLE)
    visit.page.goto(f"/incidents/INC-{incident['number']}")
    visit.go("Post-mortem")
    visit.look("unwritten")
    _write_all(visit.page)
    _publish(visit)
    _act(visit)
    _learn(visit, live, incident["id"])
    visit.go("Post-mortem")
    visit.page.emulate_media(media="print", color_scheme="light")
    visit.page.screenshot(path=visit.shots / f"print-{visit.name}.png", full_page=True)
    assert not visit.page.is_visible("nav.tabs")
    assert not visit.page.is_visible(".edit >> nth=0")
    assert visit.page.is_visible("text=All servers changed at once.")


def _publish(visit: Visit) -> None:
    page = visit.page
    page.click("text=Request review")
    page.click("main button:has-text('Publish')")
    assert "add: impact, factors" in visit.text("[role=alert]")
    visit.look("refused")
    page.click(".missing >> text=a description of the impact")
    page.fill("#f-impact-description", "Nobody could pay.")
    page.fill("#f-impact-users_affected", "4100")
    page.fill("#f-impact-quantities-0-name", "orders lost")
    page.fill("#f-impact-quantities-0-value", "310")
    visit.look("edit-impact")
    page.click("text=Save >> nth=0")
    page.click(".missing >> text=a contributing factor")
    page.fill("#f-factors-0-slug", "No canary")
    page.click("text=Save >> nth=0")
    visit.look("edit-factors")
    page.click("[role=alert] >> text=Short name (no. 1)")
    assert page.evaluate("document.activeElement.id") == "f-factors-0-slug"
    page.fill("#f-factors-0-slug", "no-canary")
    page.select_option("#f-factors-0-category", "change")
    page.fill("#f-factors-0-statement", "All servers changed at once.")
    page.click("text=Save >> nth=0")
    page.click("main button:has-text('Publish')")
    assert visit.text(".standing .stage") == "Published"


def _act(visit: Visit) -> None:
    page = visit.page
    visit.go("Actions")
    page.fill("#f-title", "Change one server first")
    page.select_option("#f-type", "prevent")
    page.fill("#f-due_on", "2020-03-01")
    page.click("main button:has-text('Add')")
    assert visit.text(".actions .severity-CRITICAL").startswith("Overdue by ")
    page.click("text=Won't do…")
    visit.look("actions")
    page.fill("[name=closed_reason]", "There is one server now.")
    page.click("text=Close as won't do")
    assert "There is one server now." in visit.text(".actions")


def _learn(visit: Visit, live: LiveService, incident: str) -> None:
    late = {
        "id": incident,
        "kind": "change",
        "title": "A late deploy",
        "occurred_at": "2026-02-07T10:00:00Z",
    }
    sent = live.client.post("/api/v1/signals", json={"incident": incident, "items": [late]})
    assert sent.json()["counts"]["created"] == 1
    visit.go("Post-mortem")
    assert visit.text(".changed summary") == "1 entry added since this version"
    assert "A late deploy" in visit.text(".changed")
    visit.look("published")
    visit.page.click("text=All revisions")
    visit.look("revisions")
    visit.page.click("text=Show changes >> nth=1")
    assert visit.page.locator("ins").count() > 0
    visit.look("difference")
    visit.go("History")
    assert "Wrote revision 1, draft" in visit.text("table")
    visit.look("history")


# Controls that a finger may miss (WCAG 2.2, 2.5.8): those in a line of text are exempt.
SMALL = """() => [...document.querySelectorAll("main button, main input:not([type=hidden]), main select, main summary, main a")]
  .filter(it => it.getClientRects().length && !it.closest("p, li, dd, .text, .story, .error-summary"))
  .map(it => [it.textContent.trim().slice(0, 40), Math.round(it.getBoundingClientRect().height)])
  .filter(([, height]) => height < 24)"""
