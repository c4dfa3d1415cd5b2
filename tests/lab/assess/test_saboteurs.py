"""Who grades the grader.

Each switch of a service that passes everything fails its check, and no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from postfacta_lab.assess.model import rubric
from postfacta_lab.assess.runner import Options
from tests.kit.every import every
from tests.lab.assess.conftest import Assess

# What fails with a check, since it stands on the same behaviour.
CONSEQUENCES: Mapping[str, tuple[str, ...]] = {
    "TIME-4": ("DEP-4", "LOAD-1", "LOAD-2", "LOAD-3"),
    "LOAD-1": ("LOAD-2", "LOAD-3"),
    "HLTH-1": ("HLTH-2", "HLTH-3", "DEP-1"),
    "LOAD-2": ("DEP-5",),
    "SHUT-1": ("STRM-1",),
}
# The whole of these is more than one thing, of which the switch takes one.
PARTIAL = {"LOGS-2"}
# Switches that do not meet: one run throws many of them.
QUICK = (
    (
        "METR-1",
        "LOGS-1",
        "TRAC-2",
        "SECU-1",
        "SECU-4",
        "INPT-1",
        "CRSH-1",
        "OPER-1",
        "OPER-3",
        "OPER-5",
        "SHUT-1",
        "DATA-3",
    ),
    (
        "METR-2",
        "METR-4",
        "LOGS-2",
        "TRAC-1",
        "SECU-2",
        "INPT-2",
        "CRSH-3",
        "OPER-2",
        "OPER-6",
        "SHUT-3",
        "DATA-1",
        "RATE-1",
        "STRM-1",
    ),
    (
        "METR-3",
        "METR-5",
        "LOGS-3",
        "SECU-3",
        "SECU-5",
        "INPT-3",
        "OPER-4",
        "OPER-7",
        "SHUT-4",
        "DATA-2",
    ),
)
ALONE = ("CRSH-2", "SHUT-2", "HLTH-1", "LOGS-4")
SLOW = (
    ("TIME-1", "DEP-1"),
    ("TIME-2", "DEP-2", "LOAD-2"),
    ("TIME-3", "DEP-3", "HLTH-3"),
    ("TIME-4",),
    ("DEP-4", "LOAD-3"),
    ("DEP-5",),
    ("STRM-3",),
    ("HLTH-2", "LOAD-1"),
)

# It has no pool to show, it loses everything at once, and what it does not validate has another
# shape.
BESIDES = ("METR-5", "DATA-2", "OPER-7")
# Of the other saboteur, behind uvicorn.
ASGI = (
    ("SECU-1", "SECU-4", "INPT-1", "CRSH-3", "SHUT-3", "DATA-3", "OPER-7", "RATE-1", "SECU-3"),
    ("TRAC-2", "SECU-2", "CRSH-1", "DATA-1"),
)


def failed(found: Mapping[str, Any]) -> set[str]:
    """Return the checks that did not pass, of those that were measured."""
    return {
        check["id"] for check in found["checks"] if check["word"] in {"fail", "partial", "error"}
    }


def judge(found: Mapping[str, Any], off: tuple[str, ...], besides: tuple[str, ...] = ()) -> None:
    words = {check["id"]: (check["word"], check["evidence"]) for check in found["checks"]}
    allowed = {*off, *besides, *(other for name in off for other in CONSEQUENCES.get(name, ()))}
    if (
        max(found["machine"][name] for name in ("waited", "others")) > Options().busy
    ):  # then the command itself takes back what is timed
        allowed |= {name for name, entry in rubric().entries.items() if entry.timed}
    with every() as case:
        for name in off:
            with case(name):
                assert words[name][0] == "fail" or name in PARTIAL, words[name]
        with case("no other"):
            assert {name: words[name] for name in failed(found) - allowed} == {}


def test_every_check_has_a_switch() -> None:
    thrown = [name for off in (*QUICK, *SLOW) for name in off] + list(ALONE)
    assert sorted(thrown) == sorted(rubric().entries)


def test_many_switches_fail_their_checks_and_no_other(assess: Assess) -> None:
    judge(assess(*QUICK[0], quick=True), QUICK[0])


@pytest.mark.long
@pytest.mark.parametrize("off", QUICK[1:], ids=lambda off: off[0])
def test_other_switches_fail_their_checks_and_no_other(
    assess: Assess, off: tuple[str, ...]
) -> None:
    judge(assess(*off, quick=True), off)


@pytest.mark.long
@pytest.mark.parametrize("name", ALONE)
def test_a_switch_alone_fails_its_check_and_no_other(assess: Assess, name: str) -> None:
    judge(assess(name, quick=True), (name,))


@pytest.mark.long
@pytest.mark.parametrize("off", SLOW, ids=lambda off: off[0])
def test_slow_switches_fail_their_checks_and_no_other(assess: Assess, off: tuple[str, ...]) -> None:
    prefixes = tuple(sorted(set(off) | {"HLTH", "DEP", "TIME", "LOAD", "STRM"}))
    judge(assess(*off, only=prefixes), off)


@pytest.mark.long
@pytest.mark.parametrize("off", ASGI, ids=lambda off: off[0])
def test_switches_of_an_asgi_application_fail_their_checks_and_no_other(
    assess: Assess, off: tuple[str, ...]
) -> None:
    found = assess(*off, script="saboteur_asgi.py", quick=True)
    judge(found, off, besides=BESIDES)


@pytest.mark.long
def test_without_a_switch_all_pass(assess: Assess) -> None:
    found = assess()
    assert failed(found) == set()
    assert found["grade"]["text"] == "A+"
