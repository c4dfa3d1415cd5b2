"""The page about adding a check, followed word by word on a copy of the lab."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs/how-to/add-a-check.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ASKED = """
import asyncio
from postfacta_lab.assess.checks import GROUPS
from postfacta_lab.assess.cli import main
from postfacta_lab.engine.client import Response

class Bench:
    def __init__(self, status):
        self.status = status

    async def call(self, path):
        return Response(self.status)

run = next(group.run for group in GROUPS if "CRSH-4" in group.ids)
print(*[asyncio.run(run(Bench(status)))["CRSH-4"].word for status in (404, 200)])
main(["--explain", "CRSH-4"])
"""


@pytest.mark.usefixtures("programs")
def test_a_check_is_added_by_the_page_alone(tmp_path: Path) -> None:
    blocks = BLOCK.findall(PAGE.read_text())
    assert [kind for kind, _ in blocks] == ["toml", "python", "python", "sh"]
    lab = tmp_path / "postfacta_lab"
    shutil.copytree(ROOT / "src/postfacta_lab", lab)
    for place, (_, text) in zip(("rubric.toml", "checks/requests.py"), blocks[:2], strict=True):
        with (lab / "assess" / place).open("a") as file:
            file.write(f"\n\n{text}")
    compile(f"def answer():\n    {blocks[2][1].replace(chr(10), chr(10) + '    ')}", "page", "exec")
    ran = subprocess.run(  # noqa: S603 - the script above
        [sys.executable, "-c", ASKED],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.stdout.startswith("pass fail\n"), ran.stderr
    assert "An unknown path is 404" in ran.stdout


def test_the_page_names_places_that_are_there() -> None:
    places = re.findall(r"`((?:src|tests)/[\w/.]+)`", PAGE.read_text())
    assert len(places) >= 4
    assert [place for place in places if not (ROOT / place).exists()] == []
