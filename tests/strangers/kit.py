"""Services that are not PostFacta: built wheel, empty environments, real servers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from tests.kit.ports import free_port
from tests.servers.serving import BIND, started, wait_for

__all__ = ["Environment", "Environments", "Served", "build"]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# Nothing of this checkout, of its environment or of its settings reaches a stranger's process.
_KEPT = ("HOME", "LANG", "PATH", "TMPDIR", "UV_CACHE_DIR")


def build(folder: Path, tree: Path = ROOT, **variables: str) -> tuple[Path, Path]:
    """Build the source distribution and the wheel of a tree into a folder, each from the tree itself."""
    _done(
        [BIN / "python", "-m", "hatchling", "build", "-d", folder],
        cwd=tree,
        env={**os.environ, **variables},
    )
    (source,), (wheel,) = folder.glob("postfacta-*.tar.gz"), folder.glob("postfacta-*.whl")
    return source, wheel


@dataclass(frozen=True)
class Served:
    """A service under a real server.

    Attributes:
        url: Its address, without a slash at the end.
        port: Its port on the loopback interface.
        process: The server, a direct child; send it signals as an operator would. It is killed when
            the block ends.
        log_file: All that the server and the service wrote.
    """

    url: str
    port: int
    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        """All that was written so far."""
        return self.log_file.read_text(errors="replace")


@dataclass(frozen=True)
class Environment:
    """A virtual environment that holds the wheel, what it needs, and the packages of one case.

    Attributes:
        folder: Where it is; its programs are in `bin`.
    """

    folder: Path

    def program(self, name: str) -> Path:
        """Return the path of a program, such as `python`."""
        return self.folder / "bin" / name

    def run(
        self,
        *command: object,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        timeout: float = 300.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment to its end, and return what it wrote."""
        name, *rest = map(str, command)
        return subprocess.run(  # noqa: S603 - a program of the environment that we made
            [self.program(name), *rest],
            cwd=cwd,
            env=_clean(environment),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def script(
        self,
        code: str,
        *,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        timeout: float = 300.0,
    ) -> subprocess.CompletedProcess[str]:
        """Write a script into the folder `cwd`, and run it to its end."""
        (cwd / "script.py").write_text(dedent(code))
        return self.run("python", "script.py", cwd=cwd, environment=environment, timeout=timeout)

    @contextmanager
    def serve(
        self,
        code: str,
        *,
        cwd: Path,
        command: str = "uvicorn service:app --port {port}",
        environment: Mapping[str, str] | None = None,
        own_port: str = "{port}",
    ) -> Generator[Served]:
        """Write `service.py`, serve it until the block ends, and wait until it takes connections.

        Args:
            code: The module, as the owner of the service would write it; its application is `app`.
            cwd: An empty folder for it.
            command: The server and its arguments; `{port}` stands for the port.
            environment: Further variables.
            own_port: What stands for the port in a module that listens by itself.
        """
        port = free_port()
        (cwd / "service.py").write_text(dedent(code).replace(own_port, str(port)))
        name, *rest = command.format(port=port).split()
        log = cwd / "server.log"
        program = [self.program(name), *rest]
        with started(program, log, cwd=cwd, environment=_clean(environment)) as process:
            wait_for(port, process, log)
            yield Served(f"http://{BIND}:{port}", port, process, log)


class Environments:
    """Makes each environment once a run.

    Args:
        wheel: What is installed.
        folder: Where they are made.
    """

    def __init__(self, wheel: Path, folder: Path) -> None:
        self._wheel = wheel
        self._folder = folder
        self._made: dict[tuple[str, ...], Environment] = {}

    def __call__(
        self,
        *packages: str,
        extras: Sequence[str] = (),
        python: str = sys.executable,
        lock: Path | None = None,
    ) -> Environment:
        """Return an environment with the wheel and packages.

        Args:
            packages: Requirements besides the wheel, such as `fastapi`. Their versions are those
                that this checkout is tested with; a package that it does not know is pinned here:
                `quart==0.20.0`.
            extras: Of the wheel, such as `postgres`.
            python: The interpreter.
            lock: Requirements with hashes, all of which are installed; the versions are theirs.
        """
        key = (*sorted(packages), "|", *sorted(extras), "|", python, str(lock))
        if key not in self._made:
            folder = self._folder / f"env{len(list(self._folder.iterdir()))}"
            _done([BIN / "uv", "venv", "-q", "--python", python, folder])
            wanted = f"{self._wheel}[{','.join(extras)}]" if extras else str(self._wheel)
            constraints = ["-c", ROOT / "requirements/dev.txt"] if lock is None else ["-r", lock]
            _done(
                [
                    BIN / "uv",
                    "pip",
                    "install",
                    "-q",
                    "--python",
                    folder,
                    *constraints,
                    wanted,
                    *packages,
                ],
                timeout=300,
            )
            self._made[key] = Environment(folder)
        return self._made[key]

    @staticmethod
    def empty(folder: Path) -> Environment:
        """Make an environment with `pip` alone."""
        _done([BIN / "uv", "venv", "-q", "--seed", "--python", sys.executable, folder])
        return Environment(folder)


def _clean(more: Mapping[str, str] | None) -> dict[str, str]:
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | dict(more or {})


def _done(
    command: Sequence[object],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> None:
    done = subprocess.run(  # noqa: S603 - our own tools
        list(map(str, command)),
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
