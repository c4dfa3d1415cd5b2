"""The command `postfacta assess`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import runpy
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import report
from .bench import NotServingError
from .model import CAPS, LETTERS, Outcome, is_below, rubric
from .runner import Options, Run, run
from .spec import LOOPBACK, Spec, SpecError
from .starter import guess, toml_of

_FORMATS: Mapping[str, Callable[[report.Document], str]] = {
    "json": lambda document: json.dumps(document, indent=1) + "\n",
    "html": report.html,
    "junit": report.junit,
    "sarif": report.sarif,
    "markdown": report.markdown,
    "badge": report.badge,
}
DONE = 0
BELOW = 1
WRONG = 2
UNDETERMINED = 3
_EPILOG = """\
postfacta assess -- uvicorn app:app --port {port}   starts it, and guesses the rest
postfacta assess                                    reads assess.toml, or a table of pyproject.toml
postfacta assess init -- COMMAND                    starts it once, and writes assess.toml
postfacta assess diff OLD.json NEW.json             lists the checks that changed
postfacta assess render OLD.json --html FILE        makes other formats of a report

It signals, kills and floods only what it starts, and writes rows whose mark begins with assess-.
Exit codes: 0 done; 1 below --fail-below, or worse than --baseline; 2 wrong usage, or the service
does not start; 3 a check of ours crashed, or the grade could not be determined."""


def main(words: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if words is None else list(words)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = _parser().parse_intermixed_args(arguments[:end])
    command = arguments[end + 1 :]
    try:
        match options.words:
            case ["diff", old, new]:
                code = _diff(_read(Path(old)), _read(Path(new)))
            case ["render", old]:
                code = _show(options, _read(Path(old)))
            case ["init"]:
                code = _init(options.file or Path("assess.toml"), command)
            case [] if options.list or options.explain:
                code = _explain(options.explain)
            case []:
                code = _assess(options, command)
            case _:
                _parser().error("init, diff OLD NEW or render OLD, or none of them")
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("assess: interrupted; the service was ended\n")
        code = UNDETERMINED
    except (SpecError, NotServingError, OSError, KeyError, json.JSONDecodeError) as error:
        sys.stderr.write(f"assess: {error}\n")
        code = WRONG
    return code


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


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
    add(
        "--fail-below",
        metavar="LETTER",
        choices=[*LETTERS, "A", "B", "C", "D"],
        help="exit 1 below it",
    )
    add(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="exit 1 if a check got worse than in this report",
    )
    add(
        "--allow-database",
        metavar="HOST",
        default="",
        help="a database that is not on this machine",
    )
    add("--keep", type=Path, metavar="FOLDER", help="keep the log of the service in this folder")
    add("--list", action="store_true", help="list the checks, and do nothing")
    add("--explain", metavar="ID", help="print what a check does, and do nothing")
    for name in _FORMATS:
        add(f"--{name}", type=Path, metavar="FILE", help=f"write {name}")
    return parser


def _assess(arguments: argparse.Namespace, command: list[str]) -> int:
    spec = _spec(arguments.file, command)
    host = spec.database.address[0] if spec.database else "localhost"
    if host not in {*LOOPBACK, arguments.allow_database}:
        raise SpecError(
            f"[database] url: {host} is not on this machine; its connections are broken and rows "
            f"are written: --allow-database {host} allows it"
        )
    for name in spec.checks:
        path = (spec.project or Path()) / name
        if path.suffix != ".py" or not path.is_file():
            raise SpecError(f"checks: {name} is no file of Python")
        runpy.run_path(str(path))
    only = tuple(word for word in arguments.only.split(",") if word)
    options = Options(
        quick=arguments.quick,
        only=only,
        within=arguments.within,
        keep=arguments.keep,
    )
    document = report.document_of(asyncio.run(_run(spec, options, bare=bool(command))))
    _show(arguments, document)
    return _code(arguments, document)


async def _run(spec: Spec, options: Options, *, bare: bool) -> Run:
    _say(f"{spec.name}: starting; it will be signalled, killed and flooded, and rows are written")
    if bare and spec.read is None:
        spec = await guess(spec, os.environ)
        _say(f"guessed, to go on with as assess.toml:\n\n{toml_of(spec)}")
    return await run(
        spec, os.environ, options, on_result=lambda name, result: _say(report.line(name, result))
    )


def _init(path: Path, command: list[str]) -> int:
    if path.exists():
        raise SpecError(f"{path} is there already")
    spec = asyncio.run(guess(_spec(None, command), os.environ))
    path.write_text(toml_of(spec), encoding="utf-8")
    _say(f"{path} is written; complete it by hand: [auth], [database]")
    return DONE


def _spec(file: Path | None, command: list[str]) -> Spec:
    path = file or Path("assess.toml")
    is_service_file = file is not None or path.exists()
    path = path if is_service_file else Path("pyproject.toml")
    try:
        text = path.read_text(encoding="utf-8") if is_service_file or path.exists() else ""
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}: {error}") from None
    if not is_service_file:
        data = data.get("tool", {}).get("postfacta", {}).get("assess", {})
    if command:
        data = {**data, "service": {**data.get("service", {}), "start": command}}
    if not data:
        raise SpecError("no assess.toml here: name a command after --, or a file by --file")
    spec = Spec.of(data, os.environ, path.parent)
    return spec if spec.project or command else replace(spec, project=path.parent)


def _explain(name: str | None) -> int:
    entries = rubric().entries
    if name and name not in entries:
        raise SpecError(f"there is no check {name}")
    for entry in [entries[name]] if name else entries.values():
        gate = f"  caps the grade at {CAPS[entry.gate]}" if entry.gate is not None else ""
        _say(f"{entry.id:<8}{entry.title}{gate}")
        if name:
            _say(f"\n{entry.does}\n\nwith harden: {entry.harden}\nwithout: {entry.without}")
    return DONE


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _show(arguments: argparse.Namespace, document: report.Document) -> int:
    """Print the summary, and write the other formats that were asked for."""
    _say("\n".join(report.summary(document)))
    for name, form in _FORMATS.items():
        if path := getattr(arguments, name):
            with path.open("a" if name == "markdown" else "w", encoding="utf-8") as file:
                file.write(form(document))
    return DONE


def _code(arguments: argparse.Namespace, document: report.Document) -> int:
    checks = [*document["checks"], *document["own"]]
    if any(check["outcome"] == Outcome.ERROR for check in checks):
        return UNDETERMINED
    if arguments.baseline and (names := report.worse(_read(arguments.baseline), document)):
        sys.stderr.write(f"assess: worse than in {arguments.baseline}: {', '.join(names)}\n")
        return BELOW
    least = arguments.fail_below
    grade = document["grade"]
    if least and is_below(grade["highest"], least):
        return BELOW
    if least and is_below(grade["lowest"], least):
        problem = f"{report.grade_text(document)} may be below {least}: too much did not run"
        sys.stderr.write(f"assess: {problem}\n")
        return UNDETERMINED
    return DONE


def _diff(old: report.Document, new: report.Document) -> int:
    _say(f"{report.grade_text(old)} -> {report.grade_text(new)}")
    for name, was, now in report.changes(old, new):
        _say(f"  {name:<8}{was['word']} -> {now['word']}: {now['evidence']}")
    return DONE
