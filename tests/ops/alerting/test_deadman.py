"""When nothing alerts any more, a page is sent nevertheless."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from chaos.alertmanager import Alertmanager
from chaos.deadman import DeadMan
from chaos.prometheus import RULES, Prometheus, compressed
from chaos.sink import Sink
from postfacta_lab.engine.processes import wait_until
from tests.ops.alerting.rules import DEPLOY, needs_alertmanager, needs_promtool

PROGRAM = DEPLOY / "bin/deadman.py"
_BY = 60.0
"""A minute is a second: the switch waits ten minutes, so ten seconds here."""


@pytest.fixture
def sink() -> Generator[Sink]:
    """Receive the pages."""
    with Sink() as sink:
        yield sink


@pytest.mark.usefixtures("programs")
@needs_promtool
@needs_alertmanager
@pytest.mark.parametrize("victim", ["prometheus", "alertmanager"])
def test_it_pages_when_either_half_of_alerting_dies_and_stops_when_it_is_back(
    victim: str, sink: Sink, tmp_path: Path
) -> None:
    rules = compressed(RULES / "selfmon.yml", tmp_path / "rules", _BY)
    with DeadMan(tmp_path, sink.url("pager"), limit=600 / _BY) as deadman:
        urls = {"deadman_url": deadman.url, "pager_url": sink.url("x"), "ticket_url": sink.url("x")}
        with Alertmanager(tmp_path, urls, by=_BY) as alertmanager:
            at = alertmanager.url.removeprefix("http://")
            with Prometheus(tmp_path, {}, rules=[rules], alertmanagers=[at], by=_BY) as prometheus:
                halves = {"prometheus": prometheus, "alertmanager": alertmanager}
                _wait_for_a_ping(deadman)
                assert not sink.posts("pager")
                halves[victim].kill()
                page = sink.wait_for("pager", name="DeadMansSwitch", within=60)
                assert page.labels["severity"] == "page"
                assert page.annotations["runbook_url"].endswith("/Watchdog.md")
                halves[victim].start()
                sink.wait_for("pager", name="DeadMansSwitch", status="resolved", within=60)
    assert len(sink.arrivals("pager", status="firing")) == 1


def _wait_for_a_ping(deadman: DeadMan) -> None:
    # The start counts as a ping, so wait until an age falls: then a real one has come.
    ages: list[float] = []

    def has_come() -> bool:
        ages.append(deadman.age() or 0.0)
        return len(ages) > 1 and ages[-1] < ages[-2]

    wait_until(has_come, "the first ping comes", within=30)


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """Import the command, to turn its clock by hand."""
    spec = importlib.util.spec_from_file_location("deadman", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Pager:
    """Takes pages, if it is well."""

    def __init__(self) -> None:
        self.is_well = True
        self.pages: list[str] = []

    def __call__(self, status: str) -> bool:
        if self.is_well:
            self.pages.append(status)
        return self.is_well


class Turned:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def switch(program: ModuleType) -> tuple[Callable[[float], None], Callable[[], None], Pager]:
    clock, pager = Turned(), Pager()
    made = program.Switch(600.0, 3600.0, pager, clock=clock)

    def look(at: float) -> None:
        clock.now = at
        made.look()

    return look, made.ping, pager


def test_ten_minutes_of_silence_are_one_page_and_another_an_hour_later(program: ModuleType) -> None:
    look, _, pager = switch(program)
    for at in range(0, 4200, 10):
        look(float(at))
    assert pager.pages == ["firing"]
    look(4210.0)
    assert pager.pages == ["firing", "firing"]


def test_a_ping_in_time_keeps_it_quiet(program: ModuleType) -> None:
    look, ping, pager = switch(program)
    for at in range(0, 6000, 300):
        look(float(at))
        ping()
    assert pager.pages == []


def test_a_ping_after_a_page_takes_it_back_once(program: ModuleType) -> None:
    look, ping, pager = switch(program)
    look(601.0)
    ping()
    look(602.0)
    look(603.0)
    assert pager.pages == ["firing", "resolved"]


def test_a_page_that_was_not_delivered_is_tried_again(program: ModuleType) -> None:
    look, _, pager = switch(program)
    pager.is_well = False
    look(601.0)
    pager.is_well = True
    look(602.0)
    look(603.0)
    assert pager.pages == ["firing"]


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("text", "arguments", "complaint"),
    [
        ("ftp://pager", [], "holds no address of http or https"),
        ("http://pager", ["--limit=0"], "--limit must be more than 0"),
        ("http://pager", ["--limit=60", "--repeat=30"], "--repeat no less than it"),
        (None, [], "cannot read"),
    ],
)
def test_it_does_not_start_on_what_could_never_page(
    text: str | None, arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    secret = tmp_path / "pager_url"
    if text is not None:
        secret.write_text(text)
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, str(PROGRAM), f"--page-url-file={secret}", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert complaint in done.stderr
    assert text is None or text not in done.stderr  # the address is a secret


def test_alertmanager_pings_several_times_in_the_switchs_patience() -> None:
    config = yaml.safe_load((DEPLOY / "alertmanager/alertmanager.yml").read_text())
    (route,) = [route for route in config["route"]["routes"] if route["receiver"] == "deadman"]
    assert (route["group_interval"], route["repeat_interval"]) == ("1m", "1m")
