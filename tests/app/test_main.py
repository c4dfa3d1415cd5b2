"""The command says which extra it lacks, and hides no other failure behind that."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

import postfacta_core
from postfacta_app import COMMANDS
from postfacta_app.__main__ import main
from postfacta_core.installation import install_command

ROOT = Path(__file__).parents[2]


class Lacking:
    """Finds that a package which the command line imports is not installed."""

    def __init__(self, missing: str, module: str) -> None:
        self.missing = missing
        self.module = module

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        if name == self.module:
            raise ModuleNotFoundError(f"No module named {self.missing!r}", name=self.missing)


def without(
    monkeypatch: pytest.MonkeyPatch, missing: str, module: str = "postfacta_app.cli"
) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Lacking(missing, module), *sys.meta_path])


@pytest.mark.parametrize(
    ("name", "module", "extra", "missing"),
    [
        ("serve", "postfacta_app.cli", "app", "pydantic"),
        ("assess", "postfacta_lab.assess.cli", "lab", "click"),
    ],
)
def test_a_package_that_is_missing_names_the_extra_in_one_line(
    name: str,
    module: str,
    extra: str,
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    without(monkeypatch, missing, module)
    assert main([name]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{install_command(extra)} (no module {missing})" in said.err
    assert said.err.count("\n") == 1


def test_a_module_of_our_own_that_is_missing_is_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "postfacta_app.table")
    with pytest.raises(ModuleNotFoundError):
        main(["serve"])


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["dance"]])
def test_help_version_and_usage_import_no_subcommand(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "postfacta_app.cli")
    with pytest.raises(SystemExit):
        main(words)
    assert "postfacta" in "".join(capsys.readouterr())


def test_the_version_stands_in_one_place(capsys: pytest.CaptureFixture[str]) -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"postfacta {stated}\n"
    assert postfacta_core.__version__ == stated
    assert f"## {stated} (" in (ROOT / "CHANGELOG.md").read_text()


def test_slo_takes_the_words_after_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slo", "report", "--prometheus", "http://127.0.0.1:9", "--file", "no.yaml"]) == 1
    assert "no.yaml" in capsys.readouterr().err


def test_each_listed_command_has_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert f"Usage: postfacta {name} " in capsys.readouterr().out
