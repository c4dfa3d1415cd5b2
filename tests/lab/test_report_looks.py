"""axe finds nothing wrong in the lab's reports, in light and in dark, and at 320 pixels none of them scrolls sideways."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped] # it has no types
from click.testing import CliRunner
from playwright.sync_api import Page

from postfacta_lab.assess.report import html
from postfacta_lab.capacity.command import command as capacity
from postfacta_lab.chaos.command import Experiment, overview, section_of
from postfacta_lab.engine.page import page as written
from postfacta_lab.load.command import Report
from postfacta_lab.load.gate import Limits
from tests.app.browsing import NEEDS_CHROMIUM, chromium
from tests.lab.assess.test_reports import MIXED
from tests.lab.test_profiles import collapses, play

pytestmark = NEEDS_CHROMIUM

LOOKS = {
    f"{scheme}, {size}": (width, scheme)
    for scheme in ("light", "dark")
    for size, width in {"wide": 1280, "narrow": 320}.items()
}
REPORTS = ("load", "capacity", "chaos", "assess")
EXPERIMENT = Experiment(
    name="C03",
    title="C03 Users are served while the database is gone",
    description="It is killed with all its backends.",
    verdict="deviated",
    reasons=["users waited 7.1 s"],
    probes=[("users-are-served-within-5-seconds", "7.1", "not met"), ("it-is-ready", "yes", "met")],
    users={
        "by_second": [[0, 50, 0, 0.1], [1, 50, 9, 7.1]],
        "marks": [{"what": "kill-9", "at": 0.5}],
    },
    seconds=31.0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write one report of each kind, with all that it may show."""
    found = tmp_path_factory.mktemp("reports")
    report = Report(
        list(play("breakpoint", collapses, 80.0)[0].values()), Limits(), {"url": "http://a.example"}
    )
    (found / "load.html").write_text(report.as_html())
    (found / "load.json").write_text(json.dumps(report.as_json()))
    CliRunner().invoke(capacity, [str(found / "load.json"), "--html", str(found / "capacity.html")])
    (found / "assess.html").write_text(html(MIXED))
    experiments = [EXPERIMENT]
    (found / "chaos.html").write_text(
        written("Chaos", "deviated", [overview(experiments), *map(section_of, experiments)])
    )
    return found


@pytest.fixture(scope="module", params=LOOKS)
def page(chromiums: None, folder: Path, request: pytest.FixtureRequest) -> Generator[Page]:
    """An empty page of a look."""
    width, scheme = LOOKS[request.param]
    with chromium() as browser:
        yield browser.new_page(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,  # type: ignore[arg-type] # one of its words
        )


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_can_be_read_by_all_on_any_screen(page: Page, folder: Path, name: str) -> None:
    page.goto((folder / f"{name}.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(it => { it.open = true })")
    results = Axe().run(page)  # pyright: ignore[reportUnknownMemberType] # it has no types
    assert results.violations_count == 0, results.generate_report()
    width = page.viewport_size["width"] if page.viewport_size else 0
    assert 0 < page.evaluate("document.documentElement.scrollWidth") <= width
