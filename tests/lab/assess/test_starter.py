"""A service file is made for a service that has an OpenAPI document."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from postfacta_lab.assess.cli import main
from postfacta_lab.assess.spec import Ask, Spec
from postfacta_lab.assess.starter import toml_of

SMALL = Path(__file__).parent / "small.py"


def test_init_tries_what_it_would_write(
    programs: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--", sys.executable, str(SMALL), "starter"]) == 0
    made = tomllib.loads(Path("assess.toml").read_text())
    assert made["read"] == {"method": "GET", "path": "/notes/{id}"}
    assert made["write"]["path"] == "/notes"
    assert made["write"]["json"] == {
        "text": "{unique}", "kind": "short", "size": 3, "tags": [], "who": "{unique}@example.org",
    }  # fmt: skip
    assert made["service"]["live"] == "/healthz"
    assert main(["init", "--", sys.executable, str(SMALL), "starter"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_what_was_not_found_is_a_comment() -> None:
    text = toml_of(Spec(start=("serve", 'a"b')))
    assert Spec.of(tomllib.loads(text), {}, Path()).start == ("serve", 'a"b')
    assert "# [read]" in text
    assert '# keeps = "nothing"' in text


def test_what_it_keeps_is_written_as_the_file_said() -> None:
    spec = Spec(start=("x",), keeps="files")
    assert Spec.of(tomllib.loads(toml_of(spec)), {}, Path()).keeps == "files"


def test_a_file_that_was_made_is_read_again() -> None:
    spec = Spec(
        start=("x",),
        read=Ask(path="/a"),
        write=Ask(path="/b", method="PUT", json={"a b": [1, "é", {"c": None}]}),
    )
    again = Spec.of(tomllib.loads(toml_of(spec)), {}, Path())
    assert again.read == spec.read
    assert again.write == Ask(path="/b", method="PUT", json={"a b": [1, "é", {}]})
