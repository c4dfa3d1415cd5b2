"""The house keeps its own rules, as far as no linter knows them."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from docs.generate import FACES, exported, page_text

from postfacta_app.settings import Settings, variable
from postfacta_core import errors
from postfacta_core.asgi._problem import PROBLEMS
from postfacta_core.errors import RejectedError, ResilienceError
from tests.kit.budgets import code_tokens
from tests.kit.every import every
from tests.kit.names import MOST, pronouns
from tests.kit.short_timeouts import LEAST, PRESENT, short_timeouts, virtual_modules

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


def test_a_module_can_be_read_at_one_sitting() -> None:
    with every() as case:
        for name, text in MODULES.items():
            with case(name):
                # Not lines: those of docstrings and comments are what helps to read it.
                assert code_tokens(text) <= 4500


def test_a_module_says_in_one_sentence_what_it_is() -> None:
    with every() as case:
        for name, text in MODULES.items():
            with case(name):
                docstring = re.match(r'r?"""(.*?)\s*("""|\n\n)', text, re.DOTALL)
                assert docstring
                assert docstring[1].endswith(".")
                assert docstring[1].count(" and ") < 2


def test_a_face_says_what_it_exports() -> None:
    with every() as case:
        for face in FACES:
            with case(face):
                assert exported(face)


def test_the_faces_of_the_core_are_small() -> None:
    folders = ("asgi", "deadlines", "drain", "feed", "guards", "health", "limits", "testing")
    faces = ("postfacta_core", *(f"postfacta_core.{folder}" for folder in folders))
    names = {name for face in faces for name in exported(face)}
    assert len(exported("postfacta_core")) <= 25
    assert len(names) <= 60


READERS = (
    "postfacta_app/settings.py",
    "postfacta_core/asgi/options.py",
    "postfacta_lab/assess/cli.py",
    "postfacta_lab/engine/variables.py",
)


def _imported(text: str) -> Iterator[str]:
    """Return each module or name that a module imports by its whole path."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_package_imports_what_is_inside_another() -> None:
    folders = ("chaos", "deploy", "loadtests")
    tools = {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    }
    with every() as case:
        for name, text in {**MODULES, **tools}.items():
            with case(name):
                assert not [
                    path
                    for path in _imported(text)
                    if path.startswith("postfacta_")
                    and path.partition(".")[0] != name.partition("/")[0]
                    and re.search(r"\._(?!_)", path)
                ]


def test_only_the_settings_read_the_environment() -> None:
    with every() as case:
        for name, text in MODULES.items():
            with case(name):
                read = re.search(
                    r"\bos\.(environ|getenv)\b|from os import .*(environ|getenv)", text
                )
                assert name in READERS or not read


def test_a_module_has_a_test_of_its_name() -> None:
    with every() as case:
        for floor in (
            "core/telemetry",
            "core/deadlines",
            "core/guards",
            "core/limits",
            "core/drain",
            "core/health",
            "core/asgi",
            "adapters",
            "web",
            "postgres",
            "slo",
        ):
            with case(floor):
                modules = {
                    path.stem.strip("_") for path in (SRC / f"postfacta_{floor}").rglob("*.py")
                }
                tests = {
                    path.stem.removeprefix("test_")
                    for path in (ROOT / "tests" / floor).glob("test_*.py")
                }
                assert modules - {"init", "types"} <= tests


def test_a_word_for_an_idea_is_the_name_of_one_class() -> None:
    classes = [
        node.name
        for text in MODULES.values()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
    ]
    with every() as case:
        for word in ("Answer", "Buckets", "Exchange", "Registry", "Verdict"):
            with case(word):
                assert classes.count(word) == 1


def test_what_is_public_is_documented() -> None:
    page = page_text("docs/reference/core.md")
    assert [name for name in import_module("postfacta_core").__all__ if name not in page] == []


def test_every_error_has_a_status() -> None:
    assert ResilienceError in PROBLEMS
    kinds = [getattr(errors, name) for name in exported(errors.__name__)]
    nearest = {kind: next(base for base in kind.__mro__ if base in PROBLEMS) for kind in kinds}
    # A new refusal is a RejectedError's 503; what may have begun needs a status of its own.
    assert [kind for kind, base in nearest.items() if base not in {kind, RejectedError}] == []


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs/reference/settings.md").read_text()
    assert [field for field in Settings.model_fields if f"`{variable(field)}`" not in page] == []


def test_a_timeout_in_real_time_leaves_a_slow_machine_enough() -> None:
    tests = ROOT / "tests"
    folders = ("adapters", "app", "attack", "core", "plain", "postgres", "slo", "web")
    virtual = virtual_modules(tests)
    with every() as case:
        for folder in folders:
            for module in sorted({*(tests / folder).rglob("*.py")} - virtual):
                name = module.relative_to(tests).as_posix()
                with case(name):
                    lines = short_timeouts(module.read_text(encoding="utf-8"))
                    assert len(lines) <= PRESENT.get(name, 0), f"below {LEAST} s in lines {lines}"


def test_names_are_nouns_and_no_pronouns() -> None:
    with every() as case:
        for package in sorted({name.split("/")[0] for name in MODULES}):
            with case(package):
                lines = [
                    f"{name}:{line} {pronoun}"
                    for name, text in MODULES.items()
                    if name.startswith(f"{package}/")
                    for line, pronoun in pronouns(text)
                ]
                assert len(lines) <= MOST.get(package, 0), "\n".join(lines)


def test_no_committed_file_names_a_package_registry() -> None:
    registry = re.compile(r"(pypi|pythonhosted|npmjs|deb\.debian)\.org|registry\.npm")
    with every() as case:
        for name in TRACKED:
            file = ROOT / name
            if (
                file.suffix in {".png", ".svg"}
                or not file.is_file()
                or name == "tests/test_house.py"
            ):
                continue
            with case(name):
                assert not registry.search(file.read_text())


def test_no_lock_file_records_an_address() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        assert "://" not in lock.read_text()
    assert not [
        name
        for name in TRACKED
        if Path(name).name in {"uv.lock", "pylock.toml", "package-lock.json"}
    ]
