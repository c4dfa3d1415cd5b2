"""The pages, as a person meets them: in a real Chromium, with and without JavaScript."""

from __future__ import annotations

from collections.abc import Generator
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, Page, StorageState

from tests.app.browsing import CONTRAST, NEEDS_CHROMIUM, sign_in
from tests.app.running import Account, LiveService
from tests.kit.every import every

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(params=["with JavaScript", "without JavaScript"])
def page(request: pytest.FixtureRequest, browser: Browser, live: LiveService) -> Generator[Page]:
    """A page without a session."""
    has_script = request.param == "with JavaScript"
    context = browser.new_context(base_url=live.url, java_script_enabled=has_script)
    problems: list[str] = []
    opened = context.new_page()
    opened.on(
        "console",
        lambda message: (
            problems.append(message.text) if "Content Security" in message.text else None
        ),
    )
    yield opened
    context.close()
    assert problems == []


@pytest.fixture
def inside(page: Page, session: StorageState) -> Page:
    """The page, signed in."""
    page.context.add_cookies(session["cookies"])  # type: ignore[arg-type] # what it gave is what it takes
    return page


def test_sign_in_leads_back_to_the_requested_page(page: Page, live: LiveService) -> None:
    number = live.record(title="Led back after sign-in")["number"]
    page.goto(f"/incidents/INC-{number}")
    assert page.url.endswith(f"/signin?next=/incidents/INC-{number}")
    sign_in(page, live.person())
    assert page.url == f"{live.url}/incidents/INC-{number}"
    assert page.text_content("h1") == "Led back after sign-in"


def test_a_wrong_password_keeps_the_address_and_says_nothing_about_accounts(page: Page) -> None:
    page.goto("/signin")
    sign_in(page, Account("nobody@tests.example", "not the password of anybody"))
    assert page.input_value("#email") == "nobody@tests.example"
    assert page.input_value("#password") == ""
    assert "Wrong e-mail or password" in (page.text_content("[role=alert]") or "")


def test_signing_out_ends_the_session_for_good(page: Page, live: LiveService) -> None:
    page.goto("/signin")
    sign_in(page, live.person())
    cookie = page.context.cookies()
    page.click("text=Sign out")
    assert "/signin" in page.url
    page.context.add_cookies(cookie)  # type: ignore[arg-type] # what it gave is what it takes
    page.goto("/incidents")
    assert "/signin" in page.url


def test_the_list_filters_by_its_form_and_each_view_has_an_address(
    inside: Page, live: LiveService
) -> None:
    live.record(title="A slow search", severity="LOW", services=["search"])
    live.record(title="A lost payment", severity="CRITICAL", services=["payments"])
    inside.goto("/incidents")
    inside.select_option("#f-severity_gte", "CRITICAL")
    inside.fill("#f-service", "payments")
    inside.click("text=Filter")
    assert parse_qs(urlsplit(inside.url).query) == {
        "severity_gte": ["CRITICAL"],
        "service": ["payments"],
    }
    assert inside.text_content("tbody th") == "A lost payment"
    assert inside.input_value("#f-service") == "payments"
    inside.click("text=Show all")
    assert inside.url == f"{live.url}/incidents"


def test_a_filter_that_fits_nothing_and_one_that_is_wrong_say_so(inside: Page) -> None:
    inside.goto("/incidents?service=no-such-service")
    assert "No incidents match this filter" in (inside.text_content(".empty") or "")
    answer = inside.goto("/incidents?status=WRONG")
    assert answer is not None
    assert answer.status == 400
    assert "status" in (inside.text_content("[role=alert]") or "")


def test_text_of_strangers_is_inert(inside: Page, live: LiveService) -> None:
    title = '<script>document.title="owned"</script><img src=x onerror=alert(1)>'
    number = live.record(
        title=title, description="<b>bold</b> & <a href='javascript:alert(1)'>link</a>"
    )["number"]
    inside.goto(f"/incidents/INC-{number}")
    assert inside.text_content("h1") == title
    assert inside.title() == f"INC-{number} {title} · PostFacta"
    assert inside.locator("main b, main script, main img, main a[href^=javascript]").count() == 0


def test_a_problem_is_explained_in_plain_words(page: Page) -> None:
    page.goto("/problems/precondition-failed")
    assert page.text_content("h1") == "Changed in the meantime"
    assert page.text_content(".lead") == "If-Match names an older version than the stored one."


PATHS = [
    *("/signin", "/incidents", "/incidents/INC-1", "/problems/validation", "/nowhere"),
    *("/incidents/new", "/insights", "/actions"),
]


@pytest.mark.parametrize("width", [320, 1280])
def test_no_page_scrolls_sideways(
    browser: Browser, live: LiveService, session: StorageState, width: int
) -> None:
    live.record(title="W" * 200, description="unbroken" * 200, services=["a" * 63, "b" * 63])
    context = browser.new_context(
        base_url=live.url, viewport={"width": width, "height": 800}, storage_state=session
    )
    page = context.new_page()
    with every() as case:
        for path in PATHS:
            with case(path):
                page.goto(path)
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


def test_an_incident_is_recorded_by_its_form_and_a_mistake_costs_nothing_that_was_typed(
    inside: Page,
) -> None:
    inside.goto("/incidents")
    inside.click("text=Record an incident")
    inside.fill("#f-title", "Recorded by a form")
    inside.select_option("#f-severity", "HIGH")
    inside.click("summary")
    inside.fill("#f-declared_at", "2026-02-07 10:04")
    inside.click("main button")
    assert inside.url.endswith("/incidents/new")
    assert "Description" in (inside.text_content("[role=alert]") or "")
    inside.click("[role=alert] a")
    assert inside.url.endswith("#f-description")
    assert inside.input_value("#f-title") == "Recorded by a form"
    assert inside.input_value("#f-declared_at") == "2026-02-07 10:04"
    inside.fill("#f-description", "One line.\nAnother line.")
    inside.click("main button")
    inside.wait_for_url("**/incidents/INC-*")
    assert inside.text_content("h1") == "Recorded by a form"
    shown = inside.locator("main time").first.get_attribute("datetime")
    assert (shown or "").startswith("2026-02-07T10:04:00")


def test_the_keyboard_alone_is_enough_to_record_an_incident(
    browser: Browser, live: LiveService, session: StorageState
) -> None:
    context = browser.new_context(
        base_url=live.url, storage_state=session, java_script_enabled=False
    )
    page = context.new_page()
    page.goto("/incidents/new")
    page.focus("#f-title")
    page.keyboard.type("Typed from end to end")
    page.keyboard.press("Tab")
    page.keyboard.type("Without a mouse, from the title to the button.")
    page.keyboard.press("Tab")
    page.keyboard.type("Med")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/incidents/INC-*")
    assert page.text_content("h1") == "Typed from end to end"
    assert page.locator(".severity-MEDIUM").count() >= 1
    context.close()


def test_charts_have_descriptions_and_colours_that_the_policy_allows(
    inside: Page, live: LiveService
) -> None:
    name = f"s{uuid4().hex}"
    live.record(title="In the charts", severity="HIGH", services=[name])
    inside.goto(f"/insights?service={name}")
    chart = inside.get_by_role("img", name="Incidents per week, by severity")
    assert "High: 1 in 4 weeks." in (chart.locator("desc").text_content() or "")
    assert chart.locator("rect.mark").count() == 1
    inside.click("section:has(#weeks) summary")
    assert inside.locator("section:has(#weeks) tbody tr").count() == 1
    assert "n = 0, 1 unknown, 0 contradictory" in (inside.text_content("main") or "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(
    browser: Browser, live: LiveService, session: StorageState, scheme: str
) -> None:
    for severity in ("LOW", "MEDIUM", "HIGH", "CRITICAL"):
        live.record(title=f"A {severity} one", severity=severity)
    is_dark = scheme == "dark"
    context = browser.new_context(
        base_url=live.url, color_scheme="dark" if is_dark else "light", storage_state=session
    )
    page = context.new_page()
    for path in ("/incidents", "/insights", "/actions", "/incidents/new"):
        page.goto(path)
        worst = page.evaluate(CONTRAST)
        assert worst["ratio"] >= 4.5, (path, worst)  # WCAG 2.2, 1.4.3
    page.click("main button")
    assert page.locator(".wrong").count() == 3
    worst = page.evaluate(CONTRAST)
    assert worst["ratio"] >= 4.5, worst
    context.close()
