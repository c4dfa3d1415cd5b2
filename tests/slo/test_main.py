"""Files are written as their objectives say, and one that was changed by hand is found."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from postfacta_core.installation import install_command
from postfacta_slo.__main__ import main
from postfacta_slo.grafana.dashboard import dashboard_of
from postfacta_slo.proofs.files import proofs_of
from postfacta_slo.rules.alerts import rules_of
from postfacta_slo.rules.table import table_of

from .files import APP, DATA, ORDERS, ROOT, model
from .promtool import PROGRAM, needs_promtool, refusal

CLOSED = "http://127.0.0.1:9"  # discard: nobody listens there


def paths(where: Path) -> list[str]:
    return [
        "--rules", f"{where}/rules/slo.gen.yml",
        "--tests", f"{where}/tests/slo.gen.yml",
        "--dashboard", f"{where}/slo.gen.json",
        "--table", f"{where}/objectives.md",
    ]  # fmt: skip


def test_all_that_follows_from_a_file_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(ORDERS), *paths(tmp_path)]) == 0
    assert capsys.readouterr().out.count(": written\n") == 5
    found = model()
    assert yaml.safe_load((tmp_path / "rules/slo.gen.yml").read_text()) == rules_of(found)
    for name, slow in (("slo.gen.yml", False), ("slo.slow.gen.yml", True)):
        tests = yaml.safe_load((tmp_path / "tests" / name).read_text())
        assert tests == {**proofs_of(found, slow=slow), "rule_files": ["../rules/slo.gen.yml"]}
    assert json.loads((tmp_path / "slo.gen.json").read_text()) == dashboard_of(found)
    assert (tmp_path / "objectives.md").read_text() == table_of(found)


def test_a_second_time_nothing_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["generate", str(ORDERS), *paths(tmp_path)])
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.*")}
    capsys.readouterr()
    assert main(["generate", str(ORDERS), *paths(tmp_path)]) == 0
    assert capsys.readouterr().out.count(": unchanged\n") == 5
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.*")} == before
    assert main(["check", str(ORDERS), *paths(tmp_path)]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("programs")
@needs_promtool
def test_what_is_served_in_another_way_is_said_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = DATA / "openslo/calendar.yaml"
    assert main(["generate", str(file), "--rules", f"{tmp_path}/slo.gen.yml"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"slo: {file}: document 1 (SLO line-is-up): ") for line in lines)
    assert refusal(tmp_path, "check", "rules", "--lint=all", "--lint-fatal", "slo.gen.yml") == ""


@pytest.mark.usefixtures("programs")
@needs_promtool
def test_promtool_takes_the_rules_as_they_are_written(tmp_path: Path) -> None:
    main(["generate", str(ORDERS), "--rules", f"{tmp_path}/slo.gen.yml"])
    assert refusal(tmp_path, "check", "rules", "--lint=all", "--lint-fatal", "slo.gen.yml") == ""


def test_a_file_changed_by_hand_is_found_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["generate", str(ORDERS), *paths(tmp_path)])
    rules = tmp_path / "rules/slo.gen.yml"
    rules.write_text(rules.read_text().replace("> 0.0144", "> 0.9"))
    capsys.readouterr()
    assert main(["check", str(ORDERS), *paths(tmp_path)]) == 1
    said = capsys.readouterr()
    assert f"--- {rules} (as it is)" in said.out
    assert "> 0.9" in said.out
    assert "run `generate`" in said.err
    assert "objectives.md" not in said.out


def test_a_file_that_is_not_there_is_stale_and_not_shown_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(ORDERS), "--rules", f"{tmp_path}/rules.yml"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 41
    assert lines[-1] == "..."
    assert not (tmp_path / "rules.yml").exists()


def test_expressions_are_written_as_people_write_them(tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    main(["generate", str(APP), "--rules", str(file)])
    text = file.read_text()
    assert text.startswith("# Generated")
    assert "expr: |-\n" in text
    assert "&id" not in text
    assert "\\n" not in text


def test_compressed_rules_keep_their_names(tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    assert main(["generate", str(APP), "--rules", str(file), "--compress", "60"]) == 0
    text = file.read_text()
    assert "slo:sli_error:ratio_rate30m\n" in text
    assert "[30s])" in text
    assert "[30m])" not in text


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "no file is asked for: give at least one of --rules, --tests, --dashboard, --table"),
        (["--tests", "t.yml"], "--tests needs --rules"),
        (["--table", "t.md", "--compress", "2"], "--compress is for rules and their tests"),
        (["--rules", "r.yml", "--compress", "100000"], "compresses 1 to 150 times"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(APP), *words]) == 1
    assert f"slo: {why}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a: [", "is no YAML"),
        (b"\xff", "is no YAML"),
        (b"a: 1", "document 1.apiVersion: must be openslo/v1"),
        (b"!!python/object:os.system {}", "is no YAML"),
        (b"day: 2026-13-45", "is no YAML"),
        (b"kind: SLO\nspec: {}\nkind: SLI", "is no YAML: the key kind stands twice"),
    ],
)
def test_a_file_that_is_not_understood_is_named(
    tmp_path: Path, content: bytes, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    assert main(["check", str(file), "--rules", "r.yml"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"slo: {file}: ")
    assert why in told


def test_a_file_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", f"{tmp_path}/no.yaml", "--rules", "r.yml"]) == 1
    assert "no.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["init", "generate", "check", "report", "budget"])
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert command in capsys.readouterr().out


def test_a_report_names_the_prometheus_that_does_not_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for more in ([], ["--file", str(ORDERS)]):
        assert main(["report", "--prometheus", CLOSED, *more]) == 1
        assert "127.0.0.1:9" in capsys.readouterr().err


def test_without_data_the_gate_stays_shut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = ROOT / "deploy/slo/policy.yaml"
    assert main(["budget", "--prometheus", CLOSED, "--policy", str(policy), "--check"]) == 2
    assert "127.0.0.1:9" in capsys.readouterr().out
    twice = tmp_path / "policy.yaml"
    twice.write_text(f"{policy.read_text()}\n---\n{policy.read_text()}")
    assert main(["budget", "--prometheus", CLOSED, "--policy", str(twice)]) == 1
    assert "must hold one document, not 2" in capsys.readouterr().err


@pytest.mark.usefixtures("programs")
def test_it_runs_as_a_program(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "postfacta_slo",
        "generate",
        str(ORDERS),
        "--table",
        f"{tmp_path}/t.md",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603 - ourselves
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / "t.md").read_text() == table_of(model())


def test_the_committed_files_follow_from_the_objectives(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--rules", f"{ROOT}/deploy/prometheus/rules/slo.gen.yml",
        "--tests", f"{ROOT}/deploy/prometheus/tests/slo.gen.yml",
        "--dashboard", f"{ROOT}/deploy/grafana/dashboards/postfacta-slo.gen.json",
        "--table", f"{ROOT}/docs/reference/objectives.md",
    ]  # fmt: skip
    assert main(["check", str(APP), *words]) == 0, capsys.readouterr().out


@pytest.mark.usefixtures("programs")
@needs_promtool
def test_the_how_to_works_as_it_stands(tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/slo-as-code.md").read_text()
    (content,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "shop.openslo.yaml").write_text(content)
    commands = "".join(
        re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    ).splitlines()
    assert len(commands) == 4
    programs = {"python": sys.executable, "promtool": PROGRAM}
    for program, *words in map(shlex.split, commands):
        ran = subprocess.run(  # noqa: S603 - an argument list, no shell
            [programs[program], *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("metrics", ["postfacta", "fastapi-instrumentator"])
def test_a_first_file_becomes_rules_at_once(
    tmp_path: Path, metrics: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, rules, tests = (tmp_path / name for name in ("a.yaml", "rules.yml", "tests.yml"))
    assert (
        main(["init", str(file), "--service", "my-shop", "--job", "shop", "--metrics", metrics])
        == 0
    )
    made = ["generate", str(file), "--rules", str(rules), "--tests", str(tests)]
    assert main(made) == 0, capsys.readouterr().err
    text = rules.read_text()
    assert "alert: MyShopErrorBudgetBurn" in text
    assert 'job="shop"' in text
    assert "runbook_url" not in text


@pytest.mark.long
@needs_promtool
@pytest.mark.parametrize("metrics", ["postfacta", "fastapi-instrumentator"])
def test_promtool_proves_the_rules_of_a_first_file(tmp_path: Path, metrics: str) -> None:
    file, rules, tests = (tmp_path / name for name in ("a.yaml", "rules.yml", "tests.yml"))
    assert main(["init", str(file), "--service", "shop", "--metrics", metrics]) == 0
    assert main(["generate", str(file), "--rules", str(rules), "--tests", str(tests)]) == 0
    assert refusal(tmp_path, "check", "rules", "--lint=all", "--lint-fatal", "rules.yml") == ""
    assert refusal(tmp_path, "test", "rules", "tests.yml", "tests.slow.yml") == ""


def test_a_first_file_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("mine")
    assert main(["init", str(file), "--service", "shop"]) == 1
    assert "is there already" in capsys.readouterr().err
    assert file.read_text() == "mine"


def test_without_yaml_the_extra_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.delitem(sys.modules, "postfacta_slo.__main__", raising=False)
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("postfacta_slo.__main__")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"{install_command('slo')} (no module yaml)" in said
    assert said.count("\n") == 1


def test_a_file_nested_without_end_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deep.yaml"
    for deep in ("[" * 20_000, "- " * 20_000 + "x"):
        file.write_text(deep)
        assert main(["generate", str(file), *paths(tmp_path)]) == 1
        assert "more than 100 levels" in capsys.readouterr().err
