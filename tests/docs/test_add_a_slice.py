"""The page about adding a slice, followed word by word on a copy of the service."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs/how-to/add-a-slice.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"`((?:src|tests|docs)/[\w/.-]+)`")


@pytest.mark.usefixtures("programs")
def test_a_slice_is_added_by_the_page_alone(tmp_path: Path) -> None:
    text = PAGE.read_text()
    blocks = BLOCK.findall(text)
    assert [kind for kind, _ in blocks] == ["sql", "python", "text", "python", "sh"]
    table, slice_, place, tests, _ = (block for _, block in blocks)
    new = [name for name in PLACE.findall(text) if not (ROOT / name).exists()]
    assert len(new) == 3
    shutil.copytree(ROOT / "src", tmp_path / "src")
    for name, content in zip(new, (table, slice_, tests), strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    for module, before, after in (
        ("app", "from . import actions,", "from . import rooms, actions,"),
        ("app", "actions, links, labels)", "actions, links, labels, rooms)"),
        ("migrations/__init__", "('incident_labels',", "('incident_rooms', 'incident_labels',"),
    ):
        path = tmp_path / f"src/postfacta_app/{module}.py"
        lines = path.read_text()
        assert before in lines
        path.write_text(lines.replace(before, after))
    assert place.replace("rooms | ", "") in (ROOT / "pyproject.toml").read_text()
    # The fixtures of the repository, and the service of the copy.
    plugins = ("-p", "tests.conftest", "-p", "tests.app.conftest")
    options = ("-q", "-c", os.devnull, "--rootdir", str(tmp_path), "-o", "anyio_mode=auto")
    ran = subprocess.run(  # noqa: S603 - tests of the page
        [sys.executable, "-m", "pytest", *plugins, *options, str(tmp_path / new[2])],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'src'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr


def test_the_page_names_places_that_are_there() -> None:
    new = {"0006_incident_rooms.sql", "rooms.py", "test_rooms.py"}
    places = [name for name in PLACE.findall(PAGE.read_text()) if Path(name).name not in new]
    assert len(places) >= 10
    assert [name for name in places if not (ROOT / name).exists()] == []
