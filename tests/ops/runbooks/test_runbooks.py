"""Each alert has its runbook and each runbook its alert; what a runbook names is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from chaos.runbooks import FOLDER, SECTIONS
from postfacta_embedded.binaries import find_binaries
from tests.kit.every import every
from tests.ops.alerting.rules import (
    ROOT,
    alerts,
    metrics_of,
    needs_alertmanager,
    needs_promtool,
    recorded,
)
from tests.ops.alerting.test_exporters import PATRONI
from tests.ops.alerting.test_rules import NOT_OURS, exposed
from tests.ops.runbooks.reading import books, commands, queries

SCENARIOS = {
    *(
        "database-unavailable",
        "bad-deploy",
        "overload",
        "crash-loop-or-out-of-memory",
        "data-loss-and-restore",
    ),
    *(
        "leaked-credential",
        "brute-force-or-token-abuse",
        "vulnerable-dependency",
        "suspected-breach",
    ),
}
PROCESSES = {"incident-response", "escalation", "rollback", "disaster-recovery", "troubleshooting"}
JOBS = ("postgres", "node-postgres", "valkey", "blackbox-tls", "prometheus", "alertmanager")
"""Of exporters; `tests/ops/alerting/test_exporters.py` starts them, and asks for these names."""

JOURNEY = {"postfacta_journey_step_seconds"}
OWN = {"ALERTS", "scrape_samples_scraped", *NOT_OURS, *JOURNEY, *PATRONI}
VARIABLES = {
    "APP_URL",
    "METRICS_TOKEN",
    "ADMIN_TOKEN",
    "PROMETHEUS_URL",
    "ALERTMANAGER_URL",
    "DATABASE_URL",
}
ENTRIES = [*FOLDER.glob("*.md")]
BLOCKS = [(book, block) for book in books() for block in book.blocks]


def test_alerts_and_runbooks_are_one_to_one() -> None:
    assert {book.name for book in books() if "alert" in book.front} == {
        one.name for one in alerts()
    }


def test_the_scenarios_and_processes_have_theirs() -> None:
    assert {book.name for book in books() if "scenario" in book.front} == SCENARIOS
    assert {book.name for book in books() if "process" in book.front} == PROCESSES


def test_each_says_whose_it_is_and_has_every_section_in_order() -> None:
    with every() as case:
        for book in books():
            with case(book.name):
                kind = (
                    "scenario"
                    if book.name in SCENARIOS
                    else "process"
                    if book.name in PROCESSES
                    else "alert"
                )
                assert list(book.front) == [kind, "owner", "last_rehearsed"]
                assert book.front[kind] == book.name
                assert re.fullmatch(r"never|\d{4}-\d\d-\d\d", str(book.front["last_rehearsed"]))
                assert tuple(book.sections) == SECTIONS or kind == "process"
                bodies = re.split(r"^## .+$", book.text, flags=re.MULTILINE)[1:]
                assert all(len(body.strip()) > 20 for body in bodies)


def test_each_can_be_followed_without_thinking_of_commands() -> None:
    with every() as case:
        for book in books():
            with case(book.name):
                if (
                    book.name in PROCESSES
                ):  # Its sections are its own, and what it changes needs a hand.
                    assert {block.role for block in book.blocks} <= {"diagnose", "manual"}
                    assert book.of("diagnose")
                    continue
                assert {block.section for block in book.of("diagnose")} == {"Diagnosis"}
                assert {block.section for block in book.of("verify")} == {"Verification"}
                assert {block.section for block in book.of("mitigate")} <= {"Mitigation"}
                assert {block.section for block in book.of("manual")} <= {"Diagnosis", "Mitigation"}


def test_a_manual_block_says_why_it_is_not_run() -> None:
    with every() as case:
        for book, block in BLOCKS:
            with case(f"{book.name}:{block.line}"):
                assert block.script.startswith("# Not run: ") == (block.role == "manual")


@pytest.mark.usefixtures("programs")
def test_each_command_is_a_shells_and_needs_no_variable_but_those_that_are_listed() -> None:
    with every() as case:
        for book, block in BLOCKS:
            with case(f"{book.name}:{block.line}"):
                done = subprocess.run(  # noqa: S603 - see below
                    ["sh", "-n", "-c", block.script],  # noqa: S607 - it reads the script, and runs none of it
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=10,
                )
                assert done.returncode == 0, done.stderr
                made = set(re.findall(r"^(\w+)=", block.script, re.MULTILINE))
                used = set(re.findall(r"\$\{?([A-Za-z_]\w*)", re.sub(r"'[^']*'", "", block.script)))
                assert used - made - {"NF"} <= VARIABLES


def test_all_variables_are_explained() -> None:
    text = (FOLDER / "README.md").read_text()
    assert all(f"`{name}`" in text for name in VARIABLES)


def programs_of(*, manual: bool) -> list[str]:
    return sorted(
        {
            one
            for _, block in BLOCKS
            if (block.role == "manual") is manual
            for one in commands(block.script)
        }
    )


@pytest.mark.usefixtures("programs")
@needs_promtool
@needs_alertmanager
def test_each_command_exists() -> None:
    with every() as case:
        for command in programs_of(manual=False):
            with case(command):
                program, _, word = command.partition(" ")
                there = (
                    f"{find_binaries().folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
                )
                assert shutil.which(program, path=there) or program == "test", (
                    f"{program} is not installed"
                )
                if program == "postfacta":
                    _has_help(word)


@pytest.mark.usefixtures("programs")
def test_what_is_ours_in_a_manual_block_exists() -> None:
    with every() as case:
        for command in programs_of(manual=True):
            with case(command):
                program, _, word = command.partition(" ")
                if program == "postfacta":
                    _has_help(word)
                elif program == "python":
                    assert (ROOT / word).is_file()
                elif program == "make":
                    assert re.search(rf"^{word}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
                else:
                    assert re.fullmatch(r"[a-z][\w-]*", program)


@cache
def _has_help(word: str) -> None:
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "postfacta_app", word, "--help"],
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0


def test_each_query_is_of_something_that_exists() -> None:
    with every() as case:
        for asked in queries():
            with case(asked):
                if any(f'job="{job}"' in asked.expr for job in JOBS):
                    continue  # The exporters' names are asked of real ones, with the rules'.
                assert metrics_of(asked.expr) <= exposed() | recorded() | OWN


def test_the_journey_probe_exposes_what_its_runbook_asks_for() -> None:
    text = (ROOT / "deploy/bin/journey_probe.py").read_text()
    assert all(name in text for name in JOURNEY)


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_no_link_is_dead() -> None:
    with every() as case:
        for path in ENTRIES:
            with case(path.name):
                for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
                    name, _, anchor = link.partition("#")
                    target = (path.parent / name).resolve() if name else path
                    assert target.exists(), link
                    assert not anchor or anchor in anchors(target), link


def test_the_index_names_each() -> None:
    text = (FOLDER / "README.md").read_text()
    assert {book.name for book in books()} == set(
        re.findall(r"^\* \[([\w-]+)\]\(\1\.md\)$", text, re.MULTILINE)
    )


def test_commands_are_found_behind_variables_and_inside_others() -> None:
    script = "A=1 curl -s x | grep -q 'a | b' || echo no\n# comment\n! test \"$(psql x)\" = 0 && sort\nd=$(mktemp)"
    assert commands(script) == {
        "curl -s",
        "grep -q",
        "echo no",
        "test Q",
        "psql x",
        "sort",
        "mktemp",
    }
