"""The report of a game day calls nothing passed that did not pass, and shows what was seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.gameday.day import Calm
from chaos.gameday.judge import Course, Episode, Finding, Result
from chaos.gameday.keeper import Kept
from chaos.gameday.report import Told, as_json, as_markdown
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


def test_noise_is_counted_over_the_whole_day() -> None:
    calm = Calm(seconds=60.0, noise=("page: Odd", "ticket: Odd"), watchdog=1, troubles=())
    assert replace(TOLD, calm=calm, results=[FAILED, RESULT]).noise == 3
