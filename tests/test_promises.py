"""What breaks a promise to those who import the library is refused before it is released."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.every import every

ROOT = Path(__file__).parents[1]
CIRCUIT = "postfacta_core/guards/_circuit.py"
BULKHEAD = "postfacta_core/guards/bulkhead.py"

pytestmark = pytest.mark.usefixtures("programs")


class Tree:
    """A repository with the sources alone, of which a commit is a release."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(
            ROOT / "src",
            folder / "src",
            ignore=shutil.ignore_patterns("__pycache__", "postfacta_app"),
        )
        self.git("init", "-q")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "Release")

    def git(self, *words: str) -> None:
        identity = (
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@example.org",
            "-c",
            "tag.gpgsign=false",
        )
        subprocess.run(  # noqa: S603 - fixed arguments
            ["git", *identity, "-c", "commit.gpgsign=false", *words],  # noqa: S607 - where the path has it
            cwd=self.folder,
            check=True,
        )

    def replace(self, name: str, old: str, new: str) -> None:
        file = self.folder / "src" / name
        text = file.read_text()
        assert old in text, f"{name} has no {old}"
        file.write_text(text.replace(old, new, 1))

    def check(self, *base: str) -> tuple[int, str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-m", "tests.kit.promises", "--root", str(self.folder), *base],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_before_a_release_nothing_is_promised(tree: Tree) -> None:
    assert tree.check() == (0, "promises: no release yet, so nothing is promised\n")
    code, printed = tree.check("v9.9.9")
    assert (code, "v9.9.9: fatal" in printed) == (1, True), printed


def test_a_release_is_what_the_next_is_compared_with(tree: Tree) -> None:
    tree.git("tag", "v0.1.0")
    assert tree.check() == (0, "promises: 0 broken since v0.1.0\n")
    tree.replace(BULKHEAD, "lends: bool = False", "lending: bool = False")
    code, printed = tree.check()
    assert code == 1
    assert "Bulkhead.__init__(lends): Parameter was removed" in printed


def test_each_kind_of_breakage_is_named(tree: Tree) -> None:
    cases = {
        "failure_rate_threshold": (CIRCUIT, "    failure_rate_threshold: float = 0.5\n", ""),
        "Parameter default was changed": (CIRCUIT, "size: int = 100", "size: int = 50"),
        "Parameter was added as required": (BULKHEAD, "slots: int,", "slots: int, more: int,"),
        "postfacta_core.Backoff: was removed": (
            "postfacta_core/__init__.py",
            "from .backoff import Backoff",
            "from . import backoff",
        ),
    }
    with every() as case:
        for name, (file, old, new) in cases.items():
            with case(name):
                tree.git("checkout", "-q", ".")
                tree.replace(file, old, new)
                code, printed = tree.check("HEAD")
                assert code == 1, printed
                assert name in printed


def test_what_is_added_or_private_breaks_nothing(tree: Tree) -> None:
    tree.replace(BULKHEAD, "lends: bool = False", "lends: bool = False, extra: bool = False")
    tree.replace(CIRCUIT, "REFUSED: Final = 0", "NEVER: Final = 0")
    assert tree.check("HEAD") == (0, "promises: 0 broken since HEAD\n")
