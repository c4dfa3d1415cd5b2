"""Run the fast tests in other worlds: `make test-worlds`, after `make test`.

* Every other Python from 3.11 on that this machine has, in an environment of its own below
  `build/worlds`, in another time zone and locale.
* A machine that booted a minute ago, in a time namespace, as an ordinary user if this is run by
  root: the tests of the core.

The end says what passed, what failed, and what was not run, and why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
_OLDEST: Final = (3, 11)
_NOBODY: Final = "65534"
_IDS: Final = ["--reuid", _NOBODY, "--regid", _NOBODY, "--clear-groups"]
_DROP: Final = ["setpriv", *_IDS, "--no-new-privs"]
_YOUNG: Final = 60  # Seconds since the boot.
_CORE: Final = ("tests/core", "tests/plain")
_FAR: Final = {
    "TZ": "Pacific/Chatham",
    "LC_ALL": "C",
}  # 12 h 45 min before UTC, and no UTF-8 by default.
_VERSION: Final = "import sys; print(*sys.version_info[:2], sys.executable)"


def pythons() -> dict[tuple[int, int], Path]:
    """Find a Python of each minor version that the project supports, but not the present one."""
    # Those of the system first: an ordinary user may run them.
    folders = [Path(folder) for folder in ("/usr/bin", "/usr/local/bin", *os.get_exec_path())]
    folders += sorted(Path.home().glob(".pyenv/versions/*/bin"))
    found: dict[tuple[int, int], Path] = {}
    for path in (path for folder in folders for path in _named(folder)):
        run = subprocess.run(
            [path, "-c", _VERSION], capture_output=True, text=True, check=False, timeout=60
        )
        if run.returncode == 0:
            major, minor, executable = run.stdout.strip().split(" ", 2)
            version = int(major), int(minor)
            if version >= _OLDEST and version != sys.version_info[:2]:
                found.setdefault(version, Path(executable))
    return dict(sorted(found.items()))


def _named(folder: Path) -> Iterator[Path]:
    if (folder / "pyvenv.cfg").exists() or (folder.parent / "pyvenv.cfg").exists():
        return  # An environment is no Python of the machine.
    yield from (
        path for path in sorted(folder.glob("python3*")) if path.name[6:].replace(".", "").isdigit()
    )


def _tests(python: Path, *what: str) -> list[str]:
    # Without the cache: what passes here has not passed in the run that `--rest` continues.
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-n",
        "3",
        "--max-worker-restart",
        "1",
        "--dist",
        "loadfile",
        "-m",
        "fast",
    ]
    return [str(python), "-m", "pytest", *options, *what]


def _run(
    command: Sequence[str], more: Mapping[str, str] | None = None, folder: Path = _ROOT
) -> bool:
    print("+", *command, flush=True)
    run = subprocess.run(command, cwd=folder, env={**os.environ, **(more or {})}, check=False)
    return run.returncode == 0


class Worlds:
    """What was run, and how it ended."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, str]] = []

    def end(self, name: str, began: float, *, passed: bool) -> None:
        """Record how the tests of a world ended."""
        self.ends.append(
            (name, f"{'passed' if passed else 'FAILED'} in {time.monotonic() - began:.0f} s")
        )

    def other_pythons(self) -> None:
        """Run all fast tests on each other Python."""
        others = pythons()
        if not others:
            self.ends.append(("another Python", "not run: the machine has none from 3.11 on"))
        for version, python in others.items():
            name, began = f"Python {'.'.join(map(str, version))}, in {_FAR['TZ']}", time.monotonic()
            folder = (
                _ROOT / "build" / "worlds" / name.split(",", maxsplit=1)[0].replace("Python ", "py")
            )
            more = {"VENV": str(folder), "UV": shutil.which("uv") or ""}
            made = _run(["sh", "setup.sh", str(python), "requirements/test.txt"], more)
            self.end(name, began, passed=made and _run(_tests(folder / "bin" / "python"), _FAR))

    def young_machine(self) -> None:
        """Run the core's tests as an ordinary user of a machine that booted a minute ago.

        Both at once, as far as each can be had here: a red test is red in one of them, and a second
        run of the core would cost as much as the first.
        """
        began = time.monotonic()
        back = _YOUNG - int(time.clock_gettime(time.CLOCK_BOOTTIME))
        space = ["unshare", "--time", "--monotonic", str(back), "--boottime", str(back), "--fork"]
        young = "a machine that booted a minute ago"
        if shutil.which("unshare") is None or not _run([*space, "true"]):
            self.ends.append((young, "not run: time namespaces are not allowed here"))
            space, young = [], "this machine"
        python = self._of_others() if os.geteuid() == 0 else None
        if python is not None:
            passed = _as_nobody(space, python)
            self.end(f"an ordinary user of {young}", began, passed=passed)
        elif space:
            passed = _run([*space, *_tests(Path(sys.executable), *_CORE)])
            self.end(young, began, passed=passed)

    def _of_others(self) -> Path | None:
        """Find an environment that others than root may use."""
        made = sorted((_ROOT / "build/worlds").glob("*/bin/python"))
        for path in (Path(sys.executable), *made):
            if _run([*_DROP, "test", "-x", str(path.resolve())]):
                return path
        why = "not run: no Python here may be used by others than root"
        self.ends.append(("an ordinary user", why))
        return None


def _as_nobody(space: Sequence[str], python: Path) -> bool:
    """Run the core's tests without privileges, in a copy of the source."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "source"
        left_out = shutil.ignore_patterns(".venv", ".git", "build", ".*_cache")
        shutil.copytree(_ROOT, copy, ignore=left_out)
        for path in (Path(folder), copy, *copy.rglob("*")):
            os.chown(path, int(_NOBODY), int(_NOBODY), follow_symlinks=False)
        more = {"HOME": folder, "TMPDIR": folder, "PYTHONPATH": f"{copy / 'src'}"}
        parts = [str(copy / part) for part in _CORE]
        command = [*space, *_DROP, *_tests(python, f"--rootdir={copy}", *parts)]
        return _run(command, more, copy)


def main() -> int:
    """Run all of them; return 1 if one failed."""
    worlds = Worlds()
    worlds.other_pythons()
    worlds.young_machine()
    for name, ended in worlds.ends:
        print(f"{name}: {ended}")
    return int(any(ended.startswith("FAILED") for _, ended in worlds.ends))


if __name__ == "__main__":
    sys.exit(main())
