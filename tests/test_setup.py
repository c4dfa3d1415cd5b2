"""The set-up says what to do when the machine cannot run it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("programs")

ROOT = Path(__file__).parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the script in it, whose `.venv` may be spoilt."""
    shutil.copy(ROOT / "setup.sh", tmp_path)
    return tmp_path


def setup(checkout: Path, python: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own script
        ["sh", "setup.sh", python, "requirements.txt"],  # noqa: S607 - any shell will do
        cwd=checkout,
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def interpreter(checkout: Path, script: str) -> str:
    """Make a program that stands for an interpreter of another machine."""
    file = checkout / "python"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return str(file)


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own Makefile
        ["make", "--no-print-directory", *words],  # noqa: S607 - of the machine
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_help_fits_a_screen_and_names_every_target() -> None:
    text = make("help").stdout
    lines = text.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    first = [line.split()[1] for line in lines[:6]]
    assert first == ["demo", "test", "check", "docs", "fix", "gen"]
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE))
    unnamed = targets - set(re.findall(r"[a-z0-9-]+", text))
    assert unnamed == {"test-rest"}  # of `test-all` and CI


def test_the_help_of_one_target_says_what_it_takes() -> None:
    assert "ONLY=" in make("help", "ONLY=drill").stdout
    assert "make docs" in make("help", "ONLY=docs").stdout


def test_a_drill_is_one_that_there_is() -> None:
    # What is up to date makes no environment.
    for drill in ("", "ONLY=no-such-drill"):
        done = make("drill", "-o", ".venv/dev", *([drill] if drill else []))
        assert done.returncode == 2
        assert "Name a drill: make drill ONLY=NAME, of canary failover" in done.stderr
    for drill, page in (("canary", "canary"), ("migration", "migrations"), ("fleet", "drain")):
        planned = make("drill", "-n", "-o", ".venv/dev", f"ONLY={drill}").stdout
        assert f"--markdown docs/reference/{page}.md" in planned
    random = make("drill", "-n", "-o", ".venv/dev", "ONLY=failover --random 100").stdout
    assert random.splitlines()[-1] == "python -m chaos.patroni --random 100"


def test_a_missing_python_is_named_with_a_way_out(checkout: Path) -> None:
    done = setup(checkout, "no-such-python")
    assert done.returncode == 1
    assert "there is no 'no-such-python'" in done.stderr
    assert "make PYTHON=" in done.stderr


def test_a_python_that_is_too_old_is_named(checkout: Path) -> None:
    old = interpreter(checkout, 'case "$1" in --version) echo Python 3.10.1;; -c) exit 1;; esac')
    done = setup(checkout, old)
    assert done.returncode == 1
    assert "Python 3.10.1 is too old; PostFacta needs Python 3.11 or newer" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_without_venv_leads_to_the_package(checkout: Path) -> None:
    bare = interpreter(checkout, 'case "$1" in -m) mkdir -p .venv; exit 1;; esac')
    done = setup(checkout, bare)
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr
    assert not (checkout / ".venv").exists()


def test_packages_that_cannot_be_had_lead_to_space_and_network(checkout: Path) -> None:
    (checkout / "requirements.txt").write_text("./nowhere --hash=sha256:" + "0" * 64)
    binaries = checkout / ".venv/bin"
    binaries.mkdir(parents=True)
    (binaries / "python").symlink_to(shutil.which("python3") or "python3")
    done = setup(checkout, shutil.which("python3") or "python3")
    assert done.returncode == 1
    assert "no space left?" in done.stderr
    assert "PIP_INDEX_URL" in done.stderr


def test_pip_installs_what_a_named_uv_cannot(checkout: Path) -> None:
    (checkout / "requirements.txt").write_text("wanted")
    asked = checkout / "asked"
    binaries = checkout / ".venv/bin"
    binaries.mkdir(parents=True)
    for program, code in ((checkout / "uv", 2), (binaries / "python", 0)):
        program.write_text(f'#!/bin/sh\necho "${{0##*/}} $*" >> {asked}\nexit {code}\n')
        program.chmod(0o755)
    done = setup(checkout, shutil.which("python3") or "python3", UV=str(checkout / "uv"))
    assert done.returncode == 0, done.stderr
    of_uv, of_pip, _ = asked.read_text().splitlines()
    assert (
        of_uv == "uv pip install -q --python .venv/bin/python --require-hashes -r requirements.txt"
    )
    assert of_pip.endswith("--require-hashes -r requirements.txt")
