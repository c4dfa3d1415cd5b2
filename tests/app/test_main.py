"""The command says which extra it lacks, and hides no other failure behind that."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

import pytest

from postfacta_app.__main__ import main


class Lacking:
    """Finds that a package which the command line imports is not installed."""

    def __init__(self, missing: str) -> None:
        self.missing = missing

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name == "postfacta_app.cli":
            raise ModuleNotFoundError(f"No module named {self.missing!r}", name=self.missing)


def without(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.delitem(sys.modules, "postfacta_app.cli", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Lacking(missing), *sys.meta_path])


def test_a_package_that_is_missing_names_the_extra_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "pydantic")
    assert main(["serve"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert 'pip install "postfacta[app]" (no module pydantic)' in said.err
    assert said.err.count("\n") == 1


def test_a_module_of_our_own_that_is_missing_is_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "postfacta_app.table")
    with pytest.raises(ModuleNotFoundError):
        main(["serve"])


def test_with_all_there_the_words_are_handed_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "serve" in capsys.readouterr().out
