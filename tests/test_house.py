"""The house keeps its own rules, as far as no linter knows them."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

import postfacta_core
from postfacta_app.settings import Settings, variable
from postfacta_core import errors
from postfacta_core.asgi._problem import PROBLEMS

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src"
MODULES = {path.relative_to(SRC).as_posix(): path.read_text() for path in sorted(SRC.rglob("*.py"))}
TRACKED = subprocess.run(
    ["git", "ls-files", "-z"],  # noqa: S607 - git is what made this checkout
    cwd=ROOT,
    check=True,
    capture_output=True,
    text=True,
).stdout.split("\0")[:-1]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_can_be_read_at_one_sitting(name: str) -> None:
    assert len(MODULES[name].splitlines()) <= 600


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_in_one_sentence_what_it_is(name: str) -> None:
    first = (ast.get_docstring(ast.parse(MODULES[name])) or "").split("\n\n")[0]
    assert first.endswith(".")
    assert first.count(" and ") < 2


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_exports(name: str) -> None:
    body = ast.parse(MODULES[name]).body
    stated = [node for node in body if isinstance(node, ast.Assign | ast.AnnAssign)]
    targets = [
        t for node in stated for t in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    public = [n for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    if any(not n.name.startswith("_") for n in public) and "/migrations/" not in name:
        assert any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


def test_the_app_stays_thin() -> None:
    app = {name: text for name, text in MODULES.items() if name.startswith("postfacta_app/")}
    assert (
        sum(len(text.splitlines()) for name, text in app.items() if "/migrations/" not in name) <= 19_629
    ), "docs/decisions/0006"


# The launcher tells the server's workers by a variable where its file is.
READERS = ("postfacta_app/settings.py", "postfacta_core/aio/signals.py", "postfacta_core/launch.py")


@pytest.mark.parametrize("name", [name for name in MODULES if name not in READERS])
def test_only_the_settings_read_the_environment(name: str) -> None:
    assert not re.search(r"\bos\.(environ|getenv)\b|from os import .*(environ|getenv)", MODULES[name])


@pytest.mark.parametrize("floor", ["policy", "telemetry", "slo", "aio", "asgi"])
def test_a_module_has_a_test_of_its_name(floor: str) -> None:
    modules = {path.stem.strip("_") for path in (SRC / "postfacta_core" / floor).glob("*.py")}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests/core" / floor).glob("test_*.py")}
    assert modules - {"init", "types"} <= tests


@pytest.mark.parametrize("public", postfacta_core.__all__)
def test_what_is_public_is_documented(public: str) -> None:
    assert public in (ROOT / "docs/reference/core.md").read_text()


@pytest.mark.parametrize("error", errors.__all__)
def test_every_error_has_a_status(error: str) -> None:
    assert getattr(errors, error) in PROBLEMS


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_is_documented(field: str) -> None:
    assert f"`{variable(field)}`" in (ROOT / "docs/reference/settings.md").read_text()


@pytest.mark.parametrize("name", TRACKED)
def test_no_committed_file_names_a_package_registry(name: str) -> None:
    file = ROOT / name
    if file.suffix in {".png", ".svg"} or not file.is_file() or name == "tests/test_house.py":
        return
    assert not re.search(r"(pypi|pythonhosted|npmjs|deb\.debian)\.org|registry\.npm", file.read_text())


def test_no_lock_file_records_an_address() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        assert "://" not in lock.read_text()
    assert not [
        name for name in TRACKED if Path(name).name in {"uv.lock", "pylock.toml", "package-lock.json"}
    ]
