"""The judge of the game day is not easily satisfied: one thing amiss is enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from chaos.gameday.judge import Command, Course, Episode, Result, judge, noise, not_run
from chaos.gameday.rows import Pattern, Row
from chaos.gameday.watch import Watch, advance
from chaos.sink import Arrival
from postfacta_lab.engine.processes import wait_until

LABELS = {"alertname": "Flooded", "severity": "page", "service": "mill"}
NOTES = {"runbook_url": "docs/runbooks/Flooded.md"}
ROW = Row(
    name="dam-broken",
    what="the dam is opened",
    fault="dam",
    expect=(Pattern("Flooded"),),
    allow=(Pattern("Damp", (("severity", "ticket"),)),),
    runbook="Flooded.md",
    fast=True,
)
COURSE = Course(began=100.0, caused=130.0, mended=150.0, ended=180.0)
EPISODE = Episode(labels=LABELS, annotations=NOTES, seen=132.0, fired=136.0, ended=160.0)


def arrival(
    at: float, status: str, receiver: str = "pager", labels: Mapping[str, str] = LABELS
) -> Arrival:
    return Arrival(
        at=at, receiver=receiver, status=status, labels=labels, annotations=NOTES, group={}
    )


ARRIVALS = (arrival(137.0, "firing"), arrival(162.0, "resolved"))


def judged(
    *,
    row: Row = ROW,
    episodes: Sequence[Episode] = (EPISODE,),
    arrivals: Sequence[Arrival] = ARRIVALS,
    runbooks: Sequence[str] = ("Flooded.md",),
    compression: float = 10.0,
    commands: Sequence[Command] = (),
) -> Result:
    return judge(
        row,
        COURSE,
        episodes=episodes,
        arrivals=arrivals,
        runbooks=runbooks,
        compression=compression,
        commands=commands,
    )


def test_an_alert_that_does_all_it_should_passes_with_its_times() -> None:
    result = judged()
    assert (result.verdict, result.reasons, result.noise) == ("pass", (), ())
    (finding,) = result.findings
    assert (finding.pending_after, finding.fired_after, finding.told_after) == (2.0, 6.0, 7.0)
    assert (finding.resolved_after, finding.told_resolved_after) == (10.0, 12.0)
    assert (finding.severity, finding.runbook, finding.has_runbook) == ("page", "Flooded.md", True)


DAMP = {**LABELS, "alertname": "Damp", "severity": "ticket"}
AMISS: Mapping[str, tuple[Callable[[], Result], str]] = {
    "it was never seen": (lambda: judged(episodes=(), arrivals=()), "Flooded did not fire"),
    "it stayed pending": (
        lambda: judged(episodes=(replace(EPISODE, fired=None),), arrivals=()),
        "Flooded did not fire, though pending after 2 s",
    ),
    "it fired before, and not for this": (
        lambda: judged(
            episodes=(replace(EPISODE, seen=10.0, fired=12.0, ended=99.0),), arrivals=()
        ),
        "Flooded did not fire",
    ),
    "no notification": (lambda: judged(arrivals=()), "Flooded fired, and pager was not notified"),
    "somebody else was told": (
        lambda: judged(
            arrivals=(arrival(137.0, "firing", "ticket"), arrival(162.0, "resolved", "ticket"))
        ),
        "Flooded fired, and pager was not notified",
    ),
    "it was told before the fault": (
        lambda: judged(arrivals=(arrival(120.0, "firing"), ARRIVALS[1])),
        "Flooded fired, and pager was not notified",
    ),
    "its runbook is missing": (
        lambda: judged(runbooks=("Other.md",)),
        "Flooded leads to no runbook: Flooded.md",
    ),
    "it names no runbook": (
        lambda: judged(episodes=(replace(EPISODE, annotations={}),)),
        "Flooded leads to no runbook: it names none",
    ),
    "its runbook is another one": (
        lambda: judged(row=replace(ROW, runbook="Drought.md")),
        "Flooded leads to Flooded.md, and the table says Drought.md",
    ),
    "it still fires": (
        lambda: judged(episodes=(replace(EPISODE, ended=None),)),
        "Flooded was not resolved after the repair",
    ),
    "one of two still fires": (
        lambda: judged(
            episodes=(EPISODE, replace(EPISODE, labels={**LABELS, "at": "two"}, ended=None))
        ),
        "Flooded was not resolved after the repair",
    ),
    "its end was not sent": (
        lambda: judged(arrivals=ARRIVALS[:1]),
        "Flooded was resolved, and no notification was sent",
    ),
    "it has no receiver": (
        lambda: judged(episodes=(replace(EPISODE, labels={**LABELS, "severity": "none"}),)),
        "Flooded has the severity 'none', which has no receiver",
    ),
    "it is too slow": (
        lambda: judged(
            episodes=(replace(EPISODE, fired=142.0),),
            arrivals=(arrival(143.0, "firing"), ARRIVALS[1]),
        ),
        "the first page fired after 120 s at production's pace, and not within 120 s",
    ),
    "another page fired": (
        lambda: judged(
            episodes=(EPISODE, replace(EPISODE, labels={**LABELS, "alertname": "Burning"}))
        ),
        "noise: page: Burning",
    ),
    "another page was told, though it was not seen": (
        lambda: judged(
            arrivals=(
                *ARRIVALS,
                arrival(140.0, "firing", labels={**LABELS, "alertname": "Burning"}),
            )
        ),
        "noise: page: Burning",
    ),
    "an allowed ticket paged": (
        lambda: judged(episodes=(EPISODE, replace(EPISODE, labels={**DAMP, "severity": "page"}))),
        "noise: page: Damp",
    ),
}


@pytest.mark.parametrize("what", AMISS)
def test_one_thing_amiss_is_enough(what: str) -> None:
    make, reason = AMISS[what]
    result = make()
    assert result.verdict == "fail"
    assert result.reasons[0] == reason


@pytest.mark.parametrize(
    ("role", "during", "code", "reason"),
    [
        ("diagnose", True, 0, ""),
        ("diagnose", True, 7, "Flooded.md, line 9: the diagnosis ended with 7: odd"),
        ("verify", True, 1, ""),
        ("verify", True, 0, "Flooded.md, line 9: says that all is well while the fault lasts"),
        ("verify", False, 0, ""),
        (
            "verify",
            False,
            1,
            "Flooded.md, line 9: after the repair, what must say that all is well ended with 1: odd",
        ),
    ],
)
def test_a_runbook_must_answer_and_must_not_say_too_soon_that_all_is_well(
    role: str, *, during: bool, code: int, reason: str
) -> None:
    command = Command(place="line 9", role=role, during=during, code=code, said="odd")
    assert judged(commands=[command]).reasons == ((reason,) if reason else ())


def test_what_the_fault_may_set_off_is_sent_without_noise() -> None:
    result = judged(episodes=(EPISODE, replace(EPISODE, labels=DAMP)))
    assert (result.verdict, result.others, result.noise) == ("pass", ("Damp (ticket)",), ())


def test_pending_alerts_and_those_without_receiver_are_no_noise() -> None:
    pending = replace(EPISODE, fired=None)
    watchdog = replace(EPISODE, labels={"alertname": "Watchdog", "severity": "none"})
    assert noise([pending, watchdog], [arrival(1.0, "firing", "deadman", watchdog.labels)]) == ()
    assert noise([EPISODE], []) == ("page: Flooded",)


def test_the_two_minutes_are_not_judged_where_they_would_be_measured_too_coarsely() -> None:
    late = replace(EPISODE, fired=142.0)
    arrivals = (arrival(143.0, "firing"), ARRIVALS[1])
    assert judged(episodes=(late,), arrivals=arrivals, compression=30.0).verdict == "pass"
    assert (
        judged(row=replace(ROW, fast=False), episodes=(late,), arrivals=arrivals).verdict == "pass"
    )


def test_what_was_not_run_never_passes() -> None:
    result = not_run(ROW, "there is no dam")
    assert (result.verdict, result.reasons) == ("not run", ("there is no dam",))


def listed(state: str, **labels: str) -> dict[str, object]:
    return {"labels": {**LABELS, **labels}, "annotations": NOTES, "state": state}


def test_an_alert_is_followed_from_its_first_sight_to_its_end() -> None:
    first = advance({}, [listed("pending")], 1.0)
    second = advance(first, [listed("firing"), listed("firing", at="two")], 2.0)
    third = advance(second, [listed("firing")], 3.0)
    seen = {episode.labels.get("at", "one"): episode for episode in third.values()}
    assert (seen["one"].seen, seen["one"].fired, seen["one"].ended) == (1.0, 2.0, None)
    assert (seen["two"].seen, seen["two"].fired, seen["two"].ended) == (2.0, 2.0, 3.0)


def test_the_watch_keeps_what_has_ended_and_begins_anew_with_another_prometheus() -> None:
    answers: list[list[dict[str, object]]] = [[listed("firing")]]
    with Watch(0.0) as watch:
        watch.look_at(lambda: answers[-1])
        _until(lambda: len(watch.present()) == 1)
        answers.append([])
        _until(lambda: not watch.present())
        answers.append([listed("pending")])
        _until(lambda: len(watch.present()) == 1)
        watch.look_at(None)
        assert watch.present() == ()
        first, second = watch.episodes()
    assert first.fired is not None
    assert first.ended is not None
    assert second.fired is None
    assert second.ended is not None


def test_the_watch_knows_how_long_it_saw_nothing() -> None:
    def fail() -> Sequence[Mapping[str, object]]:
        raise ValueError("gone")

    with Watch(0.0) as watch:
        watch.look_at(fail)
        _until(lambda: watch.blind > 0.0)


def _until(true: Callable[[], bool]) -> None:
    wait_until(true, "it is seen", within=10.0)
