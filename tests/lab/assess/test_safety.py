"""Services that behave badly are graded or refused in time, and nothing is left of them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from postfacta_lab.assess import bench
from postfacta_lab.assess.bench import NotServingError, Service
from postfacta_lab.assess.report import document_of, html, junit, markdown, sarif
from postfacta_lab.assess.runner import Options, Run, run
from postfacta_lab.assess.spec import Ask, Spec

SMALL = Path(__file__).parent / "small.py"
CANARY = f"canary-{os.getpid()}"


def spec(habit: str, **others: object) -> Spec:
    fields = {
        "start": (sys.executable, str(SMALL), habit),
        "env": {"CANARY": CANARY},
        "read": Ask(path="/notes/{id}"),
        "write": Ask(
            path="/notes",
            method="POST",
            json=dict.fromkeys(("text", "kind", "size", "tags", "who"), "{unique}"),
        ),
        "grace": 2.0,
    }
    return Spec(**{**fields, **others})  # type: ignore[arg-type]


def assess(what: Spec, *only: str) -> Run:
    return asyncio.run(run(what, dict(os.environ), Options(only=only, quick=True)))


def left() -> list[str]:
    """Return what runs of the services that this module started.

    Each inherits its mark, other workers have others.
    """
    found: list[str] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"CANARY={CANARY}".encode() in (folder / "environ").read_bytes().split(b"\0")
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if marked and (str(SMALL) in words[:2] or "import time; time.sleep(600)" in words):
            found.append(" ".join(words))
    return found


def test_a_service_that_never_answers_is_refused(
    programs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "PATIENCE", 1.0)
    with pytest.raises(NotServingError, match="did not answer within 1 s"):
        assess(spec("mute"))
    assert left() == []


def test_a_wrong_read_is_shown_with_its_answer(
    programs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "PATIENCE", 1.0)
    with pytest.raises(NotServingError, match="404"):
        assess(spec("plain", read=Ask(path="/wrong"), write=None))
    with pytest.raises(NotServingError, match="422"):
        assess(spec("plain", write=Ask(path="/broken", method="POST", json={})))
    assert left() == []


def test_what_is_deaf_or_forks_fails_its_end_and_leaves_nothing(programs: None) -> None:
    for habit, said in (
        ("deaf", "still there 2 s after SIGTERM"),
        ("forks", "left 1 processes behind"),
    ):
        result = assess(spec(habit), "SHUT-2").results["SHUT-2"]
        assert result.word == "fail"
        assert said in result.evidence
    assert left() == []


def test_a_log_that_is_filled_stops_the_checks(
    programs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "MOST_LOG", 50_000)
    result = assess(spec("prints"), "SECU-4").results["SECU-4"]
    assert result.evidence == "it did not serve: it fills its log"


def test_no_secret_is_in_any_report(programs: None) -> None:
    what = spec("prints", auth=("Authorization", f"Bearer {CANARY}-token"))
    found = document_of(assess(what, "LOGS", "SECU"))
    for text in (json.dumps(found), html(found), junit(found), sarif(found), markdown(found)):
        assert CANARY not in text


def test_sigterm_ends_what_was_started(programs: None, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "postfacta_app",
        "assess",
        "--quick",
        "--",
        sys.executable,
        str(SMALL),
        "plain",
    ]
    with subprocess.Popen(  # noqa: S603 - our own
        command,
        cwd=tmp_path,
        env={**os.environ, "CANARY": CANARY},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as tool:
        assert tool.stdout is not None
        while "METR" not in tool.stdout.readline():
            assert tool.poll() is None
        assert left() != []
        tool.terminate()
        _, said = tool.communicate()
    assert tool.returncode == 3
    assert "interrupted; the service was ended" in said
    assert left() == []


def test_processes_are_those_of_the_session(programs: None, tmp_path: Path) -> None:
    async def both() -> tuple[int, int]:
        service = Service(
            (sys.executable, str(SMALL), "forks"),
            env=dict(os.environ),
            cwd=tmp_path,
            log=tmp_path / "log",
        )
        service.start()
        for _ in range(100):
            if len(service.leaves()) == 2:
                break
            await asyncio.sleep(0.05)
        there = len(service.leaves())
        service.kill()
        return there, len(service.leaves())

    assert asyncio.run(both()) == (2, 0)
