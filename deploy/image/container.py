"""A container without an engine.

A process in namespaces of its own, as the image's user, on its root, read-only.

It is process 1 there, as under an engine, so that signals do to it what they do in production. The
network is that of the machine. Needs root and util-linux.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

__all__ = ["Container", "Running"]

_STOP: Final = 60.0
# In a mount namespace of its own, so that nothing is left to unmount.
_ENTER: Final = """
set -eu
mount --make-rprivate /
mount --bind {root} {at}
mount -o remount,bind,ro {at}
mount -t proc proc {at}/proc
mount --rbind /dev {at}/dev
mount -t tmpfs -o mode=755 tmpfs {at}/run
mkdir {at}/run/secrets
cp {secrets}/* {at}/run/secrets/
chown -R {user} {at}/run/secrets
chmod 400 {at}/run/secrets/*
mount -o remount,ro {at}/run
exec chroot {at} /usr/bin/setpriv --reuid={uid} --regid={gid} --clear-groups --no-new-privs --bounding-set=-all \
    --inh-caps=-all /usr/bin/env -i {environment} {command}
"""


class Running:
    """A started container.

    Args:
        process: What entered the namespaces.
        output: The file that all of its output goes to.
    """

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self._process = process
        self._output = output

    def log(self) -> str:
        """Return the end of its output."""
        return self._output.read_text(errors="replace")[-1500:]

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        return self._process.wait(120)

    def terminate(self) -> tuple[int, float]:
        """Send SIGTERM to its process 1, and return its exit code, and the seconds that it took."""
        began = time.monotonic()
        children = (
            Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        )
        for child in children:
            subprocess.run(["kill", "-TERM", child], check=False)
        return self._process.wait(_STOP), time.monotonic() - began


class Container:
    """An image with its settings.

    Args:
        root: Its root file system.
        config: Its configuration, as an engine has it.
        secrets: Files in `/run/secrets`.
        environment: More variables than its own.
    """

    def __init__(
        self,
        root: Path,
        config: Mapping[str, Any],
        *,
        secrets: Mapping[str, str],
        environment: Mapping[str, str],
    ) -> None:
        self._root = root
        self._config = config
        self._secrets = secrets
        self._environment = environment

    def run(
        self,
        *command: str,
        entrypoint: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        """Run a command to its end; return the exit code and all that it wrote."""
        with self._started(command, entrypoint, environment or {}) as running:
            return running.wait(), running.log().strip()

    def health(self, port: str) -> tuple[int, str]:
        """Run the health check of the image, of a service on this port."""
        kind, program, *words = self._config["Healthcheck"]["Test"]
        if kind != "CMD":
            return 1, "it needs a shell"
        return self.run(*(word.replace("8080", port) for word in words), entrypoint=[program])

    @contextmanager
    def started(self) -> Generator[Running]:
        """Start the image's own command, until the block ends."""
        with self._started(self._config["Cmd"], (), {}) as running:
            yield running

    @contextmanager
    def _started(
        self, command: Sequence[str], entrypoint: Sequence[str], environment: Mapping[str, str]
    ) -> Generator[Running]:
        folder = Path(tempfile.mkdtemp(prefix="postfacta-container-"))
        output = folder / "output"
        try:
            with output.open("wb") as file:
                process = subprocess.Popen(
                    [
                        "unshare",
                        "--mount",
                        "--pid",
                        "--ipc",
                        "--uts",
                        "--fork",
                        "--kill-child",
                        "sh",
                        "-c",
                        self._script(
                            folder,
                            [*(entrypoint or self._config["Entrypoint"]), *command],
                            environment,
                        ),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                )
            try:
                yield Running(process, output)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait(_STOP)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _script(self, folder: Path, command: Sequence[str], environment: Mapping[str, str]) -> str:
        secrets = folder / "secrets"
        at = folder / "root"
        secrets.mkdir()
        at.mkdir()
        for name, text in self._secrets.items():
            (secrets / name).write_text(text)
        given: Sequence[str] = self._config.get("Env") or []
        own = dict(variable.split("=", 1) for variable in given)
        variables = {**own, **self._environment, **environment}
        uid, gid = self._config["User"].split(":")
        return _ENTER.format(
            root=shlex.quote(str(self._root)),
            at=at,
            secrets=secrets,
            user=self._config["User"],
            uid=uid,
            gid=gid,
            environment=shlex.join(f"{name}={value}" for name, value in variables.items()),
            command=shlex.join(command),
        )
