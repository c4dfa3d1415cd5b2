"""The command `postfacta assess`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from .bench import NotServingError
from .grade import LETTERS, is_below
from .model import Outcome, Result
from .report import terminal
from .report.document import changes, document, grade_text, worse
from .rubric import rubric
from .runner import Options, Run, run
from .spec import LOOPBACK, Spec, SpecError
from .starter import guess, toml_of

__all__ = ["main"]

# By option: the module that is imported when it is asked for, and its function.
_FORMATS = {
    "html": ("html", "html"),
    "junit": ("machine", "junit"),
    "sarif": ("machine", "sarif"),
    "markdown": ("machine", "markdown"),
    "badge": ("machine", "badge"),
}
DONE, BELOW, WRONG, UNTOLD = 0, 1, 2, 3
_EPILOG = """\
postfacta assess -- uvicorn app:app --port {port}   starts it, and guesses the rest
postfacta assess                                    reads assess.toml, or [tool.postfacta.assess] in pyproject.toml
postfacta assess init -- COMMAND                    starts it once, and writes assess.toml
postfacta assess diff OLD.json NEW.json             lists the checks that changed
postfacta assess render OLD.json --html FILE        makes other formats of a report

It signals, kills and floods only what it starts, and writes rows whose mark begins with assess-.
Exit codes: 0 done; 1 below --fail-below, or worse than --baseline; 2 wrong usage, or the service does not start;
3 a check of ours crashed, or the grade could not be determined."""


def main(words: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if words is None else list(words)
    command = given[given.index("--") + 1 :] if "--" in given else []
    own = _parser().parse_intermixed_args(given[: given.index("--")] if "--" in given else given)
    try:
        match own.words:
            case ["diff", old, new]:
                return _diff(Path(old), Path(new))
            case ["render", report]:
                return _render(own, Path(report))
            case ["init"]:
                return _init(own.file or Path("assess.toml"), command)
            case []:
                return _assess(own, command)
            case _:
                _parser().error("init, diff OLD NEW or render OLD, or none of them")
    except (SpecError, NotServingError, OSError, KeyError, json.JSONDecodeError) as error:
        sys.stderr.write(f"assess: {error}\n")
        return WRONG


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "postfacta assess",
        description="Grade a service from A to F by what it does when things are done to it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="init | diff OLD NEW | render OLD", help=argparse.SUPPRESS)
    add("--file", type=Path, help="the service file (assess.toml)")
    add("--quick", action="store_true", help="leave out database faults, overload and slow clients")
    add("--only", default="", metavar="IDS", help="prefixes of checks, as SHUT,DATA-1")
    add("--within", type=float, default=240.0, metavar="SECONDS", help="begin no check after (240)")
    add("--fail-below", metavar="LETTER", choices=[*LETTERS, "A", "B", "C", "D"], help="exit 1 below it")
    add("--baseline", type=Path, metavar="FILE", help="exit 1 if a check got worse than in this report")
    add("--allow-database", metavar="HOST", default="", help="a database that is not on this machine")
    add("--keep", type=Path, metavar="FOLDER", help="keep the log of the service in this folder")
    add("--list", action="store_true", help="list the checks, and do nothing")
    add("--explain", metavar="ID", help="print what a check does, and do nothing")
    for name in ("json", *_FORMATS):
        add(f"--{name}", type=Path, metavar="FILE", help=f"write {name}")
    return parser


def _assess(given: argparse.Namespace, command: list[str]) -> int:
    if given.list or given.explain:
        return _explain(given.explain or "")
    spec = _spec(given.file, command)
    host = spec.database.address[0] if spec.database else "localhost"
    if host not in {*LOOPBACK, given.allow_database}:
        raise SpecError(
            f"[database] url: {host} is not on this machine; its connections are broken and rows "
            f"are written: --allow-database {host} allows it"
        )
    _load(spec)
    options = Options(
        quick=given.quick,
        only=tuple(word for word in given.only.split(",") if word),
        within=given.within,
        keep=given.keep,
    )
    try:
        found = document(asyncio.run(_run(spec, options, bare=bool(command))))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("assess: interrupted; the service was ended\n")
        return UNTOLD
    sys.stdout.write(terminal.summary(found))
    _write(given, found)
    return _code(given, found)


async def _run(spec: Spec, options: Options, *, bare: bool) -> Run:
    sys.stdout.write(
        f"{spec.name}: starting; it will be signalled, killed and flooded, and rows are written\n"
    )
    if bare and spec.read is None:
        spec = await guess(spec, os.environ)
        sys.stdout.write(f"guessed, to go on with as assess.toml:\n\n{toml_of(spec)}\n")
    return await run(spec, os.environ, options, tell=_show)


def _init(path: Path, command: list[str]) -> int:
    if path.exists():
        raise SpecError(f"{path} is there already")
    spec = asyncio.run(guess(_spec(None, command), os.environ))
    path.write_text(toml_of(spec), encoding="utf-8")
    sys.stdout.write(f"{path} is written; complete it by hand: [auth], [database]\n")
    return DONE


def _show(result: Result) -> None:
    sys.stdout.write(terminal.line(result) + "\n")
    sys.stdout.flush()


def _spec(file: Path | None, command: list[str]) -> Spec:
    path = file or Path("assess.toml")
    data: dict[str, Any] = {}
    if file is not None or path.exists():
        data = _toml(path)
    elif (project := Path("pyproject.toml")).exists():
        data = _toml(project).get("tool", {}).get("postfacta", {}).get("assess", {})
    if command:
        data = {**data, "service": {**data.get("service", {}), "start": command}}
    if not data:
        raise SpecError("no assess.toml here: name a command after --, or a file by --file")
    spec = Spec.of(data, os.environ, path.parent)
    return spec if spec.project or command else replace(spec, project=path.parent)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}: {error}") from None


def _load(spec: Spec) -> None:
    for number, name in enumerate(spec.checks):
        path = (spec.project or Path()) / name
        found = spec_from_file_location(f"assess_own_{number}", path)
        if found is None or found.loader is None or not path.exists():
            raise SpecError(f"checks: {name} is no file of Python")
        found.loader.exec_module(module_from_spec(found))


def _explain(name: str) -> int:
    entries = rubric().entries
    if name and name not in entries:
        raise SpecError(f"there is no check {name}")
    for entry in [entries[name]] if name else entries.values():
        gate = f"  caps the grade at {('D+', 'C+', 'B+')[entry.gate]}" if entry.gate is not None else ""
        sys.stdout.write(f"{entry.id:<8}{entry.title}{gate}\n")
        if name:
            sys.stdout.write(f"\n{entry.does}\n\nwith harden: {entry.harden}\nwithout: {entry.without}\n")
    return DONE


def _write(given: argparse.Namespace, found: Mapping[str, Any]) -> None:
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, (module, function) in _FORMATS.items():
        if path := getattr(given, name):
            made = getattr(import_module(f"{__package__}.report.{module}"), function)(found)
            with path.open("a" if name == "markdown" else "w", encoding="utf-8") as file:
                file.write(made)


def _code(given: argparse.Namespace, found: Mapping[str, Any]) -> int:
    if any(check["outcome"] == Outcome.ERROR for check in (*found["checks"], *found["own"])):
        return UNTOLD
    if given.baseline and (names := worse(json.loads(given.baseline.read_text()), found)):
        sys.stderr.write(f"assess: worse than in {given.baseline}: {', '.join(names)}\n")
        return BELOW
    if given.fail_below and is_below(found["grade"]["highest"], given.fail_below):
        return BELOW
    if given.fail_below and is_below(found["grade"]["lowest"], given.fail_below):
        sys.stderr.write(
            f"assess: {grade_text(found)} may be below {given.fail_below}: too much did not run\n"
        )
        return UNTOLD
    return DONE


def _diff(*files: Path) -> int:
    old, new = (json.loads(file.read_text()) for file in files)
    sys.stdout.write(f"{grade_text(old)} -> {grade_text(new)}\n")
    for name, was, now in changes(old, new):
        sys.stdout.write(f"  {name:<8}{was['word']} -> {now['word']}: {now['evidence']}\n")
    return DONE


def _render(given: argparse.Namespace, report: Path) -> int:
    found = json.loads(report.read_text())
    sys.stdout.write(terminal.summary(found))
    _write(given, found)
    return DONE
