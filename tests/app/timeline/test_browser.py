"""The page of an incident in a real Chromium.

A responder puts a timeline right, with and without JavaScript.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, StorageState, expect

from tests.app.browsing import CONTRAST, NEEDS_CHROMIUM
from tests.app.running import LiveService
from tests.app.timeline.test_pages import DEPLOY, FIRING

pytestmark = NEEDS_CHROMIUM
PAYLOAD = {"line": "unbroken" * 30}


def recorded(live: LiveService, source: str) -> str:
    """Record an incident with a deployment and an alert; return its path."""
    made = live.record(declared_at="2026-02-07T10:05:00Z")
    items = [{**it, "source": source} for it in (FIRING, {**DEPLOY, "payload": PAYLOAD})]
    sent = live.client.post("/api/v1/signals", json={"incident": made["id"], "items": items})
    assert sent.status_code == 200, sent.text
    return f"/incidents/INC-{made['number']}"


@pytest.fixture(params=["with JavaScript", "without JavaScript"])
def page(
    request: pytest.FixtureRequest, browser: Browser, live: LiveService, session: StorageState
) -> Generator[Page]:
    """The page of a new incident, signed in; nothing on it may be refused by the browser."""
    has_script = request.param == "with JavaScript"
    path = recorded(live, "with" if has_script else "without")
    context = browser.new_context(
        base_url=live.url, java_script_enabled=has_script, storage_state=session
    )
    opened = context.new_page()
    refused: list[str] = []
    opened.on("console", lambda message: refused.append(message.text))
    opened.goto(path)
    yield opened
    context.close()
    assert [text for text in refused if "Failed to load resource" not in text] == []


def test_a_responder_puts_a_timeline_right_by_forms_alone(page: Page) -> None:
    alert = page.locator("article", has_text="Checkout fails")
    add_a_note(page)

    alert.locator("text=Pin").click()
    page.click("text=Narrative")
    assert "Checkout fails" in page.locator("article h4").all_text_contents()

    curate(alert, "Correct the time", value="2026-02-07 10:02", reason="By the log")
    assert alert.locator("s").text_content() == "Originally: 10:04:12"
    assert page.locator("li.moment", has=alert).locator("> time").text_content() == "≈10:02"

    curate(alert, "Hide", reason="A test alert")
    assert "Checkout fails" not in (page.text_content("main") or "")
    page.click("text=Show 1 hidden")
    *tags, recorded = alert.locator(".tag").all_text_contents()
    assert (tags, recorded[:9]) == (["pinned", "hidden"], "recorded ")

    page.click("text=Resolve…")
    resolve = page.locator("form[action*='/moves']", has_text="Resolve")
    resolve.locator("[name=occurred_at]").fill("2026-02-07 10:50")
    resolve.locator("button").click()
    assert page.locator(".status").text_content() == "Resolved"
    assert "after 45 min" in (page.text_content(".facts") or "")


def add_a_note(page: Page) -> None:
    """Add a note at the second try: what was typed comes back with what was wrong."""
    note = page.locator("form.capture")
    note.locator("[name=body]").fill("The cache is cold")
    note.locator("[name=occurred_at]").fill("half past ten")
    note.locator("button").click()
    assert page.locator("[role=alert] a").get_attribute("href") == "#capture-occurred_at"
    assert note.locator("[name=body]").input_value() == "The cache is cold"
    note.locator("[name=occurred_at]").fill("2026-02-07 10:30")
    note.locator("button").click()
    # Ready for the next, in sight, with the means to mend what was written.
    page.wait_for_url("**#capture-body")
    expect(page.locator("#capture-body")).to_be_focused()
    assert (page.locator(".recorded span").first.text_content() or "").endswith(" recorded")
    assert "The cache is cold" in page.locator("article h4").all_text_contents()


def curate(entry: Locator, button: str, **typed: str) -> None:
    """Fill in one of the forms of an entry."""
    entry.locator("summary", has_text="Correct or annotate").click()
    form = entry.locator("form", has_text=button)
    for name, text in typed.items():
        form.locator(f"[name={name}]").fill(text)
    form.locator("button").click()


def test_a_mark_of_the_drawing_leads_to_its_entry(page: Page) -> None:
    page.locator("svg a.mark").first.click(position={"x": 16, "y": 16})
    assert page.locator("article:target h4").text_content() == "Deploy 7"


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (1280, "dark")])
def test_the_page_fits_any_screen_with_all_its_forms_open(
    browser: Browser,
    live: LiveService,
    session: StorageState,
    width: int,
    scheme: str,
    tmp_path: Path,
) -> None:
    path = recorded(live, f"wide-{width}-{scheme}")
    context = browser.new_context(
        base_url=live.url,
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
        storage_state=session,
    )
    page = context.new_page()
    page.goto(f"{path}?from=2026-02-07")
    page.evaluate("document.querySelectorAll('details').forEach(it => it.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("h1").count() == 1
    worst = page.evaluate(CONTRAST)
    assert worst["ratio"] >= 4.5, worst
    small = page.evaluate(SMALL)
    assert small == []
    shot = Path(os.environ.get("SHOTS", tmp_path)) / f"incident-{width}-{scheme}.png"
    page.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 10_000
    context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_bar_stays_in_sight_and_covers_no_focus(
    browser: Browser, live: LiveService, session: StorageState, width: int
) -> None:
    context = browser.new_context(
        base_url=live.url, viewport={"width": width, "height": 844}, storage_state=session
    )
    page = context.new_page()
    page.goto(recorded(live, f"bar-{width}"))
    page.evaluate("document.querySelectorAll('details').forEach(it => it.open = true)")
    page.evaluate("window.scrollTo(0, 1500)")
    bar = page.locator(".bar").bounding_box()
    assert bar is not None
    assert (bar["y"], bar["y"] + bar["height"])[width < 1000] == (0, 844)[width < 1000]
    assert bar["height"] < 844 / 4
    page.locator(".tabs a").first.focus()
    covered: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(BENEATH):
            covered.append(page.evaluate("document.activeElement.outerHTML.slice(0, 80)"))
    assert covered == []
    # After a note the line is where it was.
    page.fill("#capture-body", "Rolled back")
    page.click(".capture button")
    page.wait_for_url("**#capture-body")
    after = page.locator("#capture-body").bounding_box()
    assert after is not None
    assert 0 <= after["y"] < 844
    context.close()


# Whether what has the focus is wholly beneath the bar (WCAG 2.2, 2.4.11).
BENEATH = """() => {
  const it = document.activeElement, bar = document.querySelector(".bar");
  if (bar.contains(it) || it === document.body) return false;
  const box = it.getBoundingClientRect(), over = bar.getBoundingClientRect();
  return box.top >= over.top && box.bottom <= over.bottom;
}"""


# What can be clicked and is lower than 24 pixels (WCAG 2.2, 2.5.8), but for links inside a
# sentence.
SMALL = """() => [...document.querySelectorAll("main button, main summary, main select, main input:not([type=hidden]),"
    + " main nav a, main .hindsight a, main svg a")]
  .filter(it => it.getClientRects().length && it.getBoundingClientRect().height < 23.5)
  .map(it => it.outerHTML.slice(0, 80))"""


COVERED = """() => [...document.querySelectorAll('.flags')].filter(flags => {
  const title = document.createRange(), box = flags.getBoundingClientRect();
  title.selectNodeContents(flags.parentElement.querySelector('h4'));
  return [...title.getClientRects()].some(line =>
    line.right > box.left + 1 && line.left < box.right && line.bottom > box.top + 1 && line.top < box.bottom - 1);
}).length"""


def test_on_a_telephone_no_button_covers_a_title_and_print_has_no_buttons(
    browser: Browser, live: LiveService, session: StorageState
) -> None:
    path, other = recorded(live, "telephone"), live.record()
    of = f"/api/v1{path}"
    long = {
        **FIRING,
        "source": "telephone",
        "id": "long",
        "title": "Checkout fails, and " * 6 + "more",
    }
    one = live.client.get(of).json()["id"]
    sent = live.client.post("/api/v1/signals", json={"incident": one, "items": [long]})
    assert sent.json()["results"][0]["result"] == "created", sent.text
    entry = {"source": "manual/telephone", "id": "long"}
    hidden = live.client.post(
        f"{of}/edits", json={"op": "hide", "entry": entry, "reason": "A test"}
    )
    assert hidden.status_code == 201, hidden.text
    joined = live.client.post(f"{of}/links", json={"to": other["id"], "type": "related"})
    assert joined.status_code == 201, joined.text
    context = browser.new_context(
        base_url=live.url, viewport={"width": 390, "height": 900}, storage_state=session
    )
    page = context.new_page()
    page.goto(path)
    page.click("text=Show 1 hidden")
    assert page.locator(".flags", has_text="Unhide").count() == 1
    assert page.evaluate(COVERED) == 0
    page.emulate_media(media="print")
    assert page.locator("button:visible").all_text_contents() == []
    assert page.locator(".bar .status").is_visible()
    assert page.locator("h4:visible").count() > 1
    context.close()
