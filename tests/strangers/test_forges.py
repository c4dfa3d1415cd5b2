"""The action and the hook work for another repository that has nothing of ours: their own commands run there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.strangers.kit import BIN

ROOT = Path(__file__).parents[2]
SMALL = ROOT / "tests/lab/assess/small.py"


def run(*words: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own commands
        [*map(str, words)],
        cwd=cwd,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    done = run("git", *identity, *words, cwd=folder)
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """Clone what is tracked, as it is now: a forge gives that to an action and to a hook."""
    folder = tmp_path / "ours"
    listed = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    for name in filter(None, listed.split("\0")):
        is_needed = name.startswith("src/") or "/" not in name
        if is_needed and (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "Ours")
    return folder


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir()
    git(folder, "init", "-q")
    return folder


def test_the_action_matches_its_schema() -> None:
    check = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-actions")
    assert run(*check, "action.yml", cwd=ROOT).returncode == 0
    done = run(BIN / "zizmor", "--offline", "--no-progress", "action.yml", cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_the_action_grades_a_service_and_writes_the_summary(
    ours: Path, theirs: Path, tmp_path: Path
) -> None:
    action: Any = yaml.safe_load((ours / "action.yml").read_text())
    shutil.copy(SMALL, theirs / "small.py")
    inputs = {name: given["default"] for name, given in action["inputs"].items()}
    inputs |= {
        "command": f"{sys.executable} small.py plain",
        "options": "--quick --only METR,HLTH-1 --within 60",
        "sarif": "assess.sarif",
        "badge": "badge.svg",
    }
    summary = tmp_path / "summary.md"
    given = {
        "RUNNER_TEMP": str(tmp_path / "temp"),
        "GITHUB_ACTION_PATH": str(ours),
        "GITHUB_STEP_SUMMARY": str(summary),
    }
    for step in action["runs"]["steps"]:
        variables = {
            name: inputs[value.removeprefix("${{ inputs.").removesuffix(" }}")]
            for name, value in step.get("env", {}).items()
        }
        done = run("bash", "-e", "-c", step["run"], cwd=theirs, **given, **variables)
        assert done.returncode == 0, done.stdout
    assert "METR-1" in summary.read_text()
    assert json.loads((theirs / "assess.sarif").read_text())["version"] == "2.1.0"
    assert "reliability" in (theirs / "badge.svg").read_text()


def test_the_hook_stops_rules_that_do_not_match_the_objectives(
    ours: Path, theirs: Path, tmp_path: Path
) -> None:
    slo = (sys.executable, "-m", "postfacta_slo")
    files = ("billing.openslo.yaml", "--rules", "rules.yml")
    assert run(*slo, "init", files[0], "--service", "billing", cwd=theirs).returncode == 0
    assert run(*slo, "generate", *files, cwd=theirs).returncode == 0
    hook = {"id": "slo-check", "args": list(files)}
    repository = {"repo": str(ours), "rev": git(ours, "rev-parse", "HEAD"), "hooks": [hook]}
    (theirs / ".pre-commit-config.yaml").write_text(json.dumps({"repos": [repository]}))
    git(theirs, "add", "-A")
    home = {"PRE_COMMIT_HOME": str(tmp_path / "home")}
    done = run(BIN / "pre-commit", "run", "--all-files", cwd=theirs, **home)
    assert done.returncode == 0, done.stdout

    rules = theirs / "rules.yml"
    rules.write_text(rules.read_text().replace("severity: page", "severity: none"))
    git(theirs, "add", "-A")
    done = run(BIN / "pre-commit", "run", "--all-files", cwd=theirs, **home)
    assert done.returncode == 1, done.stdout
    assert "these files are not what the objectives say" in done.stdout
