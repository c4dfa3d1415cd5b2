"""The tutorial, run against a demo, ends with a published post-mortem and prints what the page shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import httpx2
import pytest

from postfacta_lab.engine.processes import wait_until
from tests.app.running import demo
from tests.kit.pg import open_folder

PAGE = Path(__file__).parents[2] / "docs/tutorial/first-post-mortem.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
NEXT = "-- next block --"


@pytest.mark.usefixtures("programs")
@pytest.mark.skipif(
    shutil.which("curl") is None and "TEST_REQUIRE_ALL" not in os.environ,
    reason="curl is not installed",
)
def test_each_block_of_the_tutorial_prints_what_it_says() -> None:
    blocks = BLOCK.findall(PAGE.read_text())
    script = f"echo '{NEXT}'\n".join(commands for commands, _ in blocks)
    with open_folder() as folder, demo(folder / ".postfacta") as (_, said):
        (url,) = re.findall(r"listening on (http://\S+?);", said)
        ready = f"{url}/healthz/ready"
        wait_until(
            lambda: httpx2.get(ready).status_code == 200, "the demo has its database", within=30.0
        )
        done = subprocess.run(  # noqa: S603 - our own page
            ["bash", "-eu", "-c", script.replace("http://127.0.0.1:8080", url)],  # noqa: S607 - found on PATH
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split(f"{NEXT}\n") == [expected for _, expected in blocks]
