"""Compare what the library promises with its last release: `python -m tests.kit.promises`.

Promised are the names of docs/reference/stability.md: where they are imported from, their members,
arguments and default values. `BASE` is another commit to compare with; without one, the latest tag
`v*`. Before the first there is none, and nothing was promised to anyone.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import griffe
from docs.generate import FACES
from griffe import BreakageKind

__all__ = ["broken", "main"]

ROOT: Final = Path(__file__).parents[2]
_COLOUR: Final = re.compile(r"\x1b\[\d*m")
_PACKAGES: Final = sorted({face.partition(".")[0] for face in FACES})
# Annotations may become more exact; mypy and pyright compare them with what they are of.
_FREE: Final = {BreakageKind.RETURN_CHANGED_TYPE, BreakageKind.ATTRIBUTE_CHANGED_TYPE}


def broken(old: Path, new: Path) -> Iterator[str]:
    """Yield each promise of one tree of sources that the other breaks."""
    before = _loaded(old)
    after = _loaded(new)
    for face in FACES:
        if face not in before:
            continue  # It is newer than the release.
        if face not in after:
            yield f"{face}: the module was removed"
            continue
        for name, promised in _names(before[face]):
            present = after[face].members.get(name)
            if present is None:
                yield f"{face}.{name}: was removed"
                continue
            for breakage in griffe.find_breaking_changes(promised, _target(present)):
                if breakage.kind not in _FREE:
                    yield _COLOUR.sub("", breakage.explain(griffe.ExplanationStyle.ONE_LINE))


def _loaded(sources: Path) -> griffe.ModulesCollection:
    loader = griffe.GriffeLoader(search_paths=[sources], allow_inspection=False)
    for package in _PACKAGES:
        if (sources / package).is_dir():
            loader.load(package)
    return loader.modules_collection


def _names(face: griffe.Object | griffe.Alias) -> Iterator[tuple[str, griffe.Object]]:
    for name, member in face.members.items():
        is_listed = face.exports is None or name in face.exports
        if is_listed and member.is_public and not member.is_module:
            yield name, _target(member)


def _target(member: griffe.Object | griffe.Alias) -> griffe.Object:
    return member.final_target if isinstance(member, griffe.Alias) else member


def _released(root: Path) -> str:
    words = ("describe", "--tags", "--abbrev=0", "--match=v*")
    done = subprocess.run(  # noqa: S603 - fixed arguments
        ["git", *words],  # noqa: S607 - git is where the path has it
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def _unpack(root: Path, base: str, folder: Path) -> None:
    done = subprocess.run(  # noqa: S603 - fixed arguments
        ["git", "archive", "--format=tar", base, "src"],  # noqa: S607 - as above
        cwd=root,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{base}: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is broken; return 1 if anything is."""
    parser = argparse.ArgumentParser(prog="promises", description=(__doc__ or "").split(":")[0])
    parser.add_argument("base", nargs="?", default="", help="a commit; by default the latest tag")
    parser.add_argument("--root", type=Path, default=ROOT, help="another checkout")
    options = parser.parse_args(arguments)
    base = options.base or _released(options.root)
    if not base:
        sys.stdout.write("promises: no release yet, so nothing is promised\n")
        return 0
    with TemporaryDirectory() as folder:
        _unpack(options.root, base, Path(folder))
        # What two faces export is listed once.
        breakages = sorted(set(broken(Path(folder, "src"), options.root / "src")))
    sys.stdout.writelines(f"{breakage}\n" for breakage in breakages)
    sys.stdout.write(f"promises: {len(breakages)} broken since {base}\n")
    return 1 if breakages else 0


if __name__ == "__main__":
    sys.exit(main())
