"""Every task by the keyboard alone, without JavaScript, and one always sees where one is."""

from __future__ import annotations

from dataclasses import dataclass, field

from playwright.sync_api import Browser, Page, StorageState

from tests.app.browsing import NEEDS_CHROMIUM
from tests.app.running import LiveService

pytestmark = NEEDS_CHROMIUM

MOST = (
    150  # A task that needs more presses of Tab from the top of its page is none that anybody does.
)
# Its name, as a screen reader says it, and whether an eye sees that it has the focus.
FOCUS = """() => {
  const it = document.activeElement, looks = getComputedStyle(it);
  const name = it.labels?.[0]?.textContent ?? it.getAttribute("aria-label") ?? it.textContent;
  return {tag: it.tagName, name: name.replace(/\\s+/g, " ").trim(),
    seen: looks.outlineStyle !== "none" && parseFloat(looks.outlineWidth) >= 1 || looks.boxShadow !== "none"};
}"""


@dataclass
class Keyboard:
    """A user without a mouse."""

    page: Page
    unseen: list[str] = field(default_factory=list[str])

    def go(self, name: str) -> None:
        """Press Tab until something of this name has the focus."""
        met: list[str] = []
        for _ in range(MOST):
            self.page.keyboard.press("Tab")
            at = self.page.evaluate(FOCUS)
            met.append(at["name"])
            if at["tag"] != "BODY" and not at["seen"]:
                self.unseen.append(at["name"])
            if at["name"].startswith(name):
                return
        raise AssertionError(f"{name} is not reached: {met}")

    def fill(self, **typed: str) -> None:
        """Go to one field after the other, and type; what was in it is replaced."""
        for name, text in typed.items():
            self.go(name.replace("_", " "))
            if self.page.evaluate("document.activeElement.tagName") != "SELECT":
                self.page.keyboard.press("Control+A")
            self.page.keyboard.type(text)

    def press(self, name: str) -> None:
        """Go to a button or a link, and press Enter; wait for the page that follows."""
        self.go(name)
        with self.page.expect_navigation():
            self.page.keyboard.press("Enter")

    def open(self, name: str) -> None:
        """Go to what is folded, and unfold it."""
        self.go(name)
        self.page.keyboard.press("Enter")

    def see(self, words: str) -> None:
        assert words in (self.page.text_content("main") or "")


def test_an_incident_is_led_from_its_record_to_its_publication(
    browser: Browser, live: LiveService, session: StorageState
) -> None:
    alert = {"source": "alerts", "id": "1", "kind": "alert_firing", "title": "Checkout fails"}
    sent = live.client.post(
        "/api/v1/signals", json={"items": [{**alert, "occurred_at": "2026-02-07T10:04:12Z"}]}
    )
    assert sent.json()["counts"]["created"] == 1
    context = browser.new_context(
        base_url=live.url, java_script_enabled=False, storage_state=session
    )
    keyboard = Keyboard(context.new_page())
    keyboard.page.goto("/incidents")
    _record(keyboard)
    _curate(keyboard)
    _write(keyboard)
    _act(keyboard)
    keyboard.press("Post-mortem")
    keyboard.press("Request review")
    keyboard.press("Publish")
    assert keyboard.page.text_content(".standing .stage") == "Published"
    assert keyboard.unseen == []
    context.close()


def _record(keyboard: Keyboard) -> None:
    keyboard.press("Record an incident")
    keyboard.fill(Title="Checkout is down")
    keyboard.go("Critical")
    keyboard.page.keyboard.press("Space")
    keyboard.page.keyboard.press("ArrowDown")
    keyboard.open("More: description")
    keyboard.fill(Description="Nobody can pay since noon.", Started="2026-02-07 10:05")
    keyboard.press("Record")
    assert keyboard.page.text_content("h1") == "Checkout is down"


def _curate(keyboard: Keyboard) -> None:
    keyboard.open("Attach unassigned signals")
    keyboard.press("Search")
    keyboard.go("2026-02-07 10:04:12 Checkout fails")
    keyboard.page.keyboard.press("Space")
    keyboard.press("Attach")
    keyboard.open("Correct or annotate: Checkout fails")
    keyboard.fill(Time="2026-02-07 10:02", Reason="By the log")
    keyboard.press("Correct the time")
    keyboard.see("≈10:02")
    keyboard.fill(What_happens="We roll back", Kind="Dec", When="2026-02-07 10:20")
    keyboard.press("Add")
    keyboard.see("We roll back")
    keyboard.open("Resolve…")
    keyboard.press("Resolve")
    keyboard.see("Resolved")


def _write(keyboard: Keyboard) -> None:
    keyboard.press("Post-mortem")
    keyboard.press("Start with the summary")
    keyboard.fill(Summary="The checkout was down.")
    keyboard.press("Save")
    keyboard.press("Edit Impact")
    keyboard.fill(Who_was_affected="Nobody could pay.")
    keyboard.press("Save")
    keyboard.press("Edit Contributing factors")
    keyboard.fill(Short_name="no-canary", Category="Change", Description="All at once.")
    keyboard.press("Save")
    keyboard.see("no-canary")


def _act(keyboard: Keyboard) -> None:
    keyboard.press("Actions")
    keyboard.fill(Title="Change one first", Type="Prevent", Owner="Ada")
    keyboard.press("Add")
    keyboard.see("Change one first")
