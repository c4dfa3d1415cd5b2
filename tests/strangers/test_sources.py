"""What a message and a generated workflow say to install is what was installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from tests.strangers.kit import Environment, Environments

SERVICE = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
"""


def shell(command: str, environment: Environment, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a person or a runner of CI would, in an activated environment."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "HOME" or name.startswith("PIP_")
    }
    path = f"{environment.folder / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(  # noqa: S603 - a command that our own message holds
        ["sh", "-c", command],  # noqa: S607 - of the machine
        cwd=folder,
        env=kept | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def installed(command: str, environment: Environment, folder: Path) -> None:
    done = shell(command, environment, folder)
    assert done.returncode == 0, done.stdout + done.stderr


def record(environment: Environment) -> dict[str, object]:
    (file,) = environment.folder.glob("lib/*/site-packages/postfacta-*.dist-info/direct_url.json")
    found: dict[str, object] = json.loads(file.read_text())
    return found


@pytest.fixture
def repository(distributions: tuple[Path, Path], tmp_path: Path) -> Path:
    """Make a repository of this tree, as it stands, with one commit."""
    with tarfile.open(distributions[0]) as opened:
        opened.extractall(tmp_path / "source", filter="data")
    (tree,) = (tmp_path / "source").iterdir()
    git = ["git", "-C", str(tree), "-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "Add all"]):
        subprocess.run([*git, *words], check=True, timeout=60)  # noqa: S603 - a repository that we made
    return tree


@pytest.mark.parametrize(
    "source",
    [
        "a wheel",
        "a repository",
        pytest.param("a checkout", marks=pytest.mark.long),
        pytest.param("an editable checkout", marks=pytest.mark.long),
    ],
)
def test_the_command_of_a_message_installs_the_same_source(
    source: str, wheel: Path, repository: Path, environments: Environments, tmp_path: Path
) -> None:
    command, requirement = {
        "a wheel": (f"pip install ./{wheel.name}", "postfacta[lab] @ file:///"),
        "a repository": (f"pip install git+file://{repository}", "postfacta[lab] @ git+file:///"),
        "a checkout": (f"pip install {repository}", "postfacta[lab] @ file:///"),
        "an editable checkout": (f"pip install -e {repository}", f"-e '{repository}[lab]'"),
    }[source]
    shutil.copy(wheel, tmp_path)
    environment = environments.empty(tmp_path / "environment")
    installed(command, environment, tmp_path)
    before = record(environment)

    message = shell("postfacta lab load", environment, tmp_path).stderr
    advice = re.search(r"pip install .*?(?= \(no module click\)$)", message, re.MULTILINE)
    assert advice is not None, message
    assert requirement in advice[0]
    installed(advice[0], environment, tmp_path)
    assert shell("postfacta lab load --help", environment, tmp_path).returncode == 0
    assert record(environment) == before

    installed("pip install uvicorn", environment, tmp_path)
    (tmp_path / "service.py").write_text(SERVICE)
    installed("postfacta lab init -- uvicorn service:app --port {port}", environment, tmp_path)
    workflow = yaml.safe_load((tmp_path / ".github/workflows/reliability.yml").read_text())
    steps = [step["run"] for step in workflow["jobs"]["reliability"]["steps"] if "run" in step]
    assert steps[0] == f"{advice[0]} pytest"
    installed(f"{steps[0]} --dry-run", environment, tmp_path)
