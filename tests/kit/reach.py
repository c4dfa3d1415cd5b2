"""Run the tests that can notice a change: `make reach BASE=commit`, by default what main lacks.

`graph.py` says what depends on what. A change that leaves the syntax tree as it was, such as of a
comment, reaches only what reads the text. When in doubt, a test is reached.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.kit.graph import Change, Graph, scan

__all__ = ["WHOLE", "changes", "chosen", "differing", "graph_of", "is_only_text", "report"]

ROOT: Final = Path(__file__).parents[2]
WHOLE: Final = ("requirements/", "setup.sh", ".python-version")
"""What each test depends on, by the start of its path."""

# Sections of pyproject.toml that no test runs by; who reads the file is reached all the same.
_LINTS: Final = ("importlinter", "ruff", "mypy", "pyright", "towncrier", "coverage")
_TIERS: Final = {"fast": "fast", "process": "process or browser", "clock": "clock"}


def chosen(graph: Graph, changed: Iterable[Change]) -> dict[str, set[str]]:
    """Return the files of tests that each changed file can reach."""
    return {
        change.path: graph.tests
        if change.path.startswith(WHOLE)
        or (change.path == "pyproject.toml" and not change.only_text)
        else graph.dependants(change) & graph.tests
        for change in changed
    }


def is_only_text(path: str, before: str | None, after: str | None) -> bool:
    """Return whether a file runs as before: only its comments, its layout or its lints changed."""
    if before is None or after is None:
        return False
    try:
        if path == "pyproject.toml":
            return _without_lints(before) == _without_lints(after)
        return path.endswith(".py") and ast.dump(ast.parse(before)) == ast.dump(ast.parse(after))
    except (SyntaxError, tomllib.TOMLDecodeError):
        return False


def _without_lints(text: str) -> object:
    settings = tomllib.loads(text)
    tools = settings.get("tool", {})
    for name in _LINTS:
        tools.pop(name, None)
    return settings


def _git(root: Path, *words: str) -> str:
    command = ["git", *words]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def _paths(output: str) -> Iterator[str]:
    return (path for path in output.split("\0") if path)


def changes(root: Path, base: str) -> list[Change]:
    """Return what differs since a branch left another: committed since, staged, and not."""
    return differing(root, _git(root, "merge-base", base, "HEAD").strip())


def differing(root: Path, commit: str) -> list[Change]:
    """Return what differs from a commit."""
    paths = {
        *_paths(_git(root, "diff", "--name-only", "--no-renames", "-z", commit)),
        *_paths(_git(root, "ls-files", "-z", "--others", "--exclude-standard")),
    }
    known = set(_paths(_git(root, "ls-tree", "-r", "--name-only", "-z", commit)))
    return [
        Change(path, is_only_text(path, _before(root, commit, path, known), _text(root / path)))
        for path in sorted(paths)
    ]


def _before(root: Path, fork: str, path: str, known: set[str]) -> str | None:
    if path not in known or not path.endswith((".py", ".toml")):
        return None
    return _git(root, "show", f"{fork}:{path}")


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def graph_of(root: Path, changed: Iterable[Change] = ()) -> Graph:
    """Read the graph of a checkout; a file that was removed is still one that others may name."""
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    paths = {*_paths(listed), *(change.path for change in changed)}
    texts = {path: _text(root / path) or "" for path in paths}
    scans = {path: scan(path, text) for path, text in texts.items() if path.endswith(".py")}
    return Graph(scans, {path: text for path, text in texts.items() if path not in scans})


def report(reached: Mapping[str, set[str]], tests: int) -> list[str]:
    """Return what runs and why: a line for each folder of changed files, and the numbers."""
    folders: dict[str, set[str]] = defaultdict(set)
    for path, found in reached.items():
        folders[_package_of(path)] |= found
    lines = [f"{folder} -> {len(found)} files" for folder, found in sorted(folders.items())]
    chosen_files = set[str]().union(*reached.values())
    rest = Counter(path.split("/")[1] for path in chosen_files)
    by_folder = ", ".join(f"{name} {count}" for name, count in sorted(rest.items()))
    left_out = f"left out: {tests - len(chosen_files)} files that the change cannot reach"
    return [
        *lines,
        f"{len(chosen_files)} of {tests} files of tests: {by_folder or 'none'}",
        f"{left_out}, and the long tests (make proofs)",
    ]


def _package_of(path: str) -> str:
    folder = path.removeprefix("src/postfacta_").rpartition("/")[0]
    return folder.replace("/", ".") if path.startswith("src/") else folder or path


def main(argv: list[str] | None = None) -> int:
    """Print what the change reaches, and run it; return 1 if a test failed."""
    parser = argparse.ArgumentParser(
        "python -m tests.kit.reach", description="Run what a change reaches."
    )
    parser.add_argument(
        "base",
        nargs="?",
        default="",
        help="by default main, on main HEAD~1; HEAD: what is not committed",
    )
    parser.add_argument("--list", action="store_true", help="print what would run, and run nothing")
    parser.add_argument("--tier", choices=_TIERS, help="run the tests of one tier")
    parser.add_argument("--workers", type=int, default=3, help="processes that run tests")
    words = parser.parse_args(argv)
    base = words.base or _default_base(ROOT)
    changed = changes(ROOT, base)
    graph = graph_of(ROOT, changed)
    reached = chosen(graph, changed)
    files = sorted(path for path in set[str]().union(*reached.values()) if (ROOT / path).exists())
    lines = [f"changed since {base}: {len(changed)} files", *report(reached, len(graph.tests))]
    print(*lines, *(files if words.list else ()), sep="\n", flush=True)
    if words.list:
        return 0
    tiers = [words.tier] if words.tier else list(_TIERS)
    ended = [_run(tier, files, words.workers) for tier in tiers] if files else []
    return int(any(ended))


def _run(tier: str, files: list[str], count: int) -> bool:
    """Run one tier of the files; return whether it failed."""
    workers = ["-n", str(count), "--max-worker-restart", "1", "--dist", "loadfile"]
    if tier == "clock":
        workers.clear()
    command = [sys.executable, "-m", "pytest", "-q", *workers, "-m", _TIERS[tier], *files]
    ended = subprocess.run(command, cwd=ROOT, check=False).returncode
    return ended not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}


def _default_base(root: Path) -> str:
    on_main = _git(root, "rev-parse", "main").strip() == _git(root, "rev-parse", "HEAD").strip()
    has_parent = " " in _git(root, "rev-list", "--parents", "-1", "HEAD").strip()
    if not on_main:
        return "main"
    return "HEAD~1" if has_parent else "HEAD"


if __name__ == "__main__":
    sys.exit(main())
