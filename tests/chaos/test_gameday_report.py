"""The report of a game day calls nothing passed that did not pass, and shows what was seen."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from chaos.gameday.day import Calm
from chaos.gameday.judge import Course, Episode, Finding, Result
from chaos.gameday.keeper import Kept
from chaos.gameday.report import Told, as_html, as_json, as_markdown
from chaos.sink import Arrival

LABELS = {"alertname": "PostfactaFlooded", "severity": "page", "slo": "dry <feet>"}
FINDING = Finding(
    alert="PostfactaFlooded",
    severity="page",
    pending_after=2.0,
    fired_after=6.5,
    told_after=7.0,
    resolved_after=10.0,
    told_resolved_after=12.0,
    runbook="PostfactaFlooded.md",
    has_runbook=True,
)
RESULT = Result(
    name="dam-broken",
    what="the dam is opened",
    verdict="pass",
    reasons=(),
    compression=10.0,
    findings=(FINDING,),
    course=Course(began=100.0, caused=130.0, mended=150.0, ended=180.0),
    users={"requests": 600.0, "failed": 20.0},
)
EPISODE = Episode(labels=LABELS, annotations={}, seen=132.0, fired=136.5, ended=160.0)
TOLD = Told(
    compression=10,
    calm=Calm(seconds=60.0, noise=(), watchdog=3, troubles=()),
    results=[RESULT],
    not_caused={"PostfactaDrought": "nothing here is dry"},
    episodes=[EPISODE],
    arrivals=[
        Arrival(at=137.0, receiver="pager", status=status, labels=LABELS, annotations={}, group={})
        for status in ("firing", "resolved")
    ],
    seconds={130: [30, 0], 131: [30, 12]},
    took=190.0,
    kept=Kept("# Game day", {"timeline": {"entries": [{}, {}], "digest": "5f0c"}}),
)
FAILED = replace(
    RESULT,
    verdict="fail",
    reasons=("noise: page: PostfactaBurning",),
    noise=("page: PostfactaBurning",),
)
SKIPPED = Result(
    name="quake", what="the earth shakes", verdict="not run", reasons=("needs an earth",)
)


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        (TOLD, "pass"),
        (replace(TOLD, results=[RESULT, FAILED, SKIPPED]), "fail"),
        (replace(TOLD, results=[RESULT, SKIPPED]), "not run"),
        (replace(TOLD, results=[]), "not run"),
        (
            replace(TOLD, calm=Calm(seconds=60.0, noise=("page: Odd",), watchdog=3, troubles=())),
            "fail",
        ),
        (replace(TOLD, calm=Calm(seconds=60.0, noise=(), watchdog=0, troubles=())), "fail"),
        (
            replace(TOLD, calm=Calm(seconds=60.0, noise=(), watchdog=3, troubles=("a:b: odd",))),
            "fail",
        ),
    ],
)
def test_a_day_passes_only_if_all_of_it_did(told: Told, verdict: str) -> None:
    assert told.verdict == verdict
    assert as_json(told)["verdict"] == verdict


def test_the_figures_are_given_as_measured_and_at_productions_pace() -> None:
    text = as_markdown(TOLD)
    assert (
        "| dam-broken | PostfactaFlooded | page | 6.5 s | 1 m 05 s | 7.0 s | 10.0 s | PostfactaFlooded.md |"
        in text
    )
    assert "| dam-broken | the dam is opened | pass | 20 of 600 | - | - |" in text
    assert "Notifications: 1; noise: 0." in text
    assert "| PostfactaDrought | nothing here is dry |" in text


def test_a_row_with_its_own_pace_is_reported_at_it() -> None:
    text = as_markdown(replace(TOLD, results=[replace(RESULT, compression=60.0)]))
    assert "| page | 6.5 s | 6 m 30 s | 7.0 s |" in text


def test_a_reason_of_several_lines_stays_in_its_cell() -> None:
    text = as_markdown(
        replace(TOLD, results=[replace(RESULT, reasons=("its last words:\nlistening\n",))])
    )
    assert "| its last words: listening |" in text


def test_what_did_not_happen_is_reported_as_never() -> None:
    silent = replace(
        FINDING, fired_after=None, told_after=None, resolved_after=None, severity="", runbook=""
    )
    text = as_markdown(replace(TOLD, results=[replace(RESULT, findings=(silent,))]))
    assert "| dam-broken | PostfactaFlooded | - | never | never | never | never | - |" in text


def test_noise_is_counted_over_the_whole_day() -> None:
    calm = Calm(seconds=60.0, noise=("page: Odd", "ticket: Odd"), watchdog=1, troubles=())
    assert replace(TOLD, calm=calm, results=[FAILED, RESULT]).noise == 3


def test_all_of_it_is_plain_data() -> None:
    found = json.loads(json.dumps(as_json(replace(TOLD, results=[RESULT, SKIPPED]))))
    assert found["rows"][0]["findings"][0]["fired_after"] == 6.5
    assert found["rows"][1]["reasons"] == ["needs an earth"]
    assert found["episodes"][0]["labels"]["alertname"] == "PostfactaFlooded"


def test_the_page_draws_when_an_alert_was_pending_fired_sent() -> None:
    page = as_html(replace(TOLD, results=[RESULT, SKIPPED]))
    drawing = next(part for part in page.split("<svg")[1:] if "alerts over time" in part).partition(
        "</svg>"
    )[0]
    tree = ET.fromstring(f"<svg{drawing}</svg>")  # noqa: S314 - we have just written it
    kinds = [(shape.tag, shape.get("class")) for shape in tree]
    assert kinds.count(("rect", "pending")) == 1
    assert kinds.count(("rect", "firing")) == 1
    assert kinds.count(("circle", "dot")) == 2
    assert kinds.count(("rect", "band")) == 1
    pending, firing = (
        next(it for it in tree if it.get("class") == kind) for kind in ("pending", "firing")
    )
    assert float(pending.get("x", 0)) + float(pending.get("width", 0)) == pytest.approx(
        float(firing.get("x", 0)), abs=0.2
    )
    assert "dry &lt;feet&gt;" in page
    assert "needs an earth" in page
