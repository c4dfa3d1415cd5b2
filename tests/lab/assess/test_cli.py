"""The command: what it refuses, what it prints without doing anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from postfacta_lab.assess.cli import _code, command, main  # pyright: ignore[reportPrivateUsage]
from postfacta_lab.assess.model import CheckResult, Outcome, rubric
from postfacta_lab.assess.report import changes, document_of, worse
from postfacta_lab.assess.runner import Run


def found(**results: CheckResult) -> dict[str, Any]:
    """Return the document of a run that passed all but these."""
    changed = {name.replace("_", "-"): result for name, result in results.items()}
    run = Run("billing")
    for name in rubric().entries:
        run.results[name] = changed.get(name, CheckResult.passes("it does"))
    return document_of(run)


def test_it_lists_its_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert sorted(listed) == sorted(rubric().entries)


def test_it_explains_a_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--explain", "SHUT-1"]) == 0
    assert "caps the grade at D+" in (out := capsys.readouterr().out)
    assert "without: Go: `signal.Notify`" in out
    assert main(["--explain", "SHUT-9"]) == 2


def test_it_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    assert "no assess.toml here" in capsys.readouterr().err
    Path("assess.toml").write_text("[service\n")
    assert main([]) == 2
    assert "assess.toml" in capsys.readouterr().err
    Path("assess.toml").write_text(
        '[service]\nstart = ["x"]\n[database]\nenv = "A"\nurl = "x://db.example:1"\n'
    )
    assert main([]) == 2
    assert "--allow-database db.example" in capsys.readouterr().err
    Path("assess.toml").write_text('checks = ["none.py"]\n[service]\nstart = ["x"]\n')
    assert main([]) == 2
    assert "none.py is no file" in capsys.readouterr().err
    assert main(["--file", "gone.toml"]) == 2


def test_what_got_worse_is_what_was_measured_twice() -> None:
    old = found(SHUT_2=CheckResult.fails("no"), DATA_3=CheckResult.not_run(""))
    new = found(
        SHUT_1=CheckResult.scored(0.5, "half"),
        DATA_3=CheckResult.fails("no"),
        DEP_4=CheckResult.not_run(""),
    )
    assert worse(old, new) == ["SHUT-1"]
    assert [name for name, _, _ in changes(old, new)] == ["SHUT-1", "SHUT-2", "DATA-3", "DEP-4"]


def test_two_reports_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(found()))
    new.write_text(json.dumps(found(SHUT_1=CheckResult.fails("none of 8"))))
    assert main(["diff", str(old), str(new)]) == 0
    assert capsys.readouterr().out == "A+ -> D+\n  SHUT-1  pass -> fail: none of 8\n"
    assert main(["diff", str(old), str(tmp_path / "gone.json")]) == 2


@pytest.mark.parametrize("words", [["dif"], ["diff", "one.json"], ["init", "more"], ["render"]])
def test_other_words_are_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "diff OLD NEW" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "results", "code"),
    [
        ([], {"SHUT_1": CheckResult.fails("")}, 0),
        (["--fail-below", "B"], {"SHUT_1": CheckResult.fails("")}, 1),
        (["--fail-below", "B"], {"SHUT_3": CheckResult.fails("")}, 0),
        (["--fail-below", "A"], {"DEP_2": CheckResult.not_run("")}, 3),
        (["--fail-below", "B"], {"DEP_2": CheckResult.not_run("")}, 0),
        (["--baseline", "old.json"], {"SHUT_3": CheckResult.fails("")}, 1),
        (["--baseline", "old.json"], {"SHUT_3": CheckResult.not_run("")}, 0),
        (["--fail-below", "B"], {"SHUT_1": CheckResult(Outcome.ERROR)}, 3),
    ],
)
def test_the_exit_code_says_what_was_found(
    options: list[str],
    results: dict[str, CheckResult],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.json").write_text(json.dumps(found()))
    chosen = command.make_context("assess", options).params
    thresholds = {name: chosen[name] for name in ("fail_below", "baseline")}
    assert _code(found(**results), **thresholds) == code


def test_a_service_that_does_not_start_is_refused(
    programs: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--", sys.executable, "-c", "raise SystemExit('no settings')"]) == 2
    assert "it ended with 1 before it served: no settings" in capsys.readouterr().err
    assert main(["--", "/no/such/program"]) == 2
    assert "No such file" in capsys.readouterr().err


def test_it_starts_at_once(programs: None) -> None:
    """It imports nothing of the app, nor what takes long."""
    script = "import sys; from postfacta_lab.assess.cli import main; main(['--list']); print(*sys.modules, sep='\\n')"
    done = subprocess.run(  # noqa: S603 - our own
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    modules = set(done.stdout.splitlines())
    assert not modules & {"yaml", "postfacta_core", "postfacta_app", "httpx2"}
