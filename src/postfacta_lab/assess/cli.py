"""The command `postfacta assess`."""

from __future__ import annotations

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

import click

from . import report
from .bench import NotServingError
from .model import CAPS, LETTERS, CheckResult, Outcome, is_below, rubric
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
\b
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
    start = arguments[end + 1 :]
    try:
        with command.make_context("postfacta assess", arguments[:end], obj=start) as context:
            code = int(command.invoke(context))
    except click.exceptions.Exit as done:
        code = done.exit_code  # help was asked for
    except click.UsageError as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("assess: interrupted; the service was ended", err=True)
        code = UNDETERMINED
    except (SpecError, NotServingError, OSError, KeyError, json.JSONDecodeError) as error:
        click.echo(f"assess: {error}", err=True)
        code = WRONG
    return code


def _formats(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command an option for each format of a report, which names its file."""
    for name in reversed(list(_FORMATS)):
        option = click.option(f"--{name}", type=Path, metavar="FILE", help=f"Write {name}.")
        command = option(command)
    return command


@click.command("assess", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("words", nargs=-1, metavar="[init | diff OLD NEW | render OLD]")
@click.option("--file", type=Path, help="The service file (assess.toml).")
@click.option("--quick", is_flag=True, help="Leave out database faults, overload, slow clients.")
@click.option("--only", default="", metavar="IDS", help="Prefixes of checks, as SHUT,DATA-1.")
@click.option(
    "--within",
    default=240.0,
    show_default=True,
    metavar="SECONDS",
    help="Begin no check after.",
)
@click.option(
    "--fail-below",
    metavar="LETTER",
    type=click.Choice(LETTERS),
    help="Exit 1 below it.",
)
@click.option(
    "--baseline",
    type=Path,
    metavar="FILE",
    help="Exit 1 if a check got worse than in this report.",
)
@click.option(
    "--allow-database",
    metavar="HOST",
    default="",
    help="A database that is not on this machine.",
)
@click.option("--keep", type=Path, metavar="FOLDER", help="Keep the log of the service there.")
@click.option("--list", "is_list", is_flag=True, help="List the checks, and do nothing.")
@click.option("--explain", metavar="ID", help="Print what a check does, and do nothing.")
@_formats
@click.pass_obj
def command(
    start: list[str],
    /,
    *,
    words: tuple[str, ...],
    file: Path | None,
    quick: bool,
    only: str,
    within: float,
    fail_below: str | None,
    baseline: Path | None,
    allow_database: str,
    keep: Path | None,
    is_list: bool,
    explain: str | None,
    **paths: Path | None,
) -> int:
    """Grade a service from A to F by what it does when things are done to it."""
    match words:
        case ("diff", old, new):
            return _diff(_read(Path(old)), _read(Path(new)))
        case ("render", old):
            return _show(_read(Path(old)), paths)
        case ("init",):
            return _init(file or Path("assess.toml"), start)
        case () if is_list or explain:
            return _explain(explain)
        case ():
            prefixes = tuple(word for word in only.split(",") if word)
            options = Options(quick=quick, only=prefixes, within=within, keep=keep)
            document = _assess(_spec(file, start), options, allow_database, bare=bool(start))
            _show(document, paths)
            return _code(document, fail_below=fail_below, baseline=baseline)
        case _:
            raise click.UsageError("init, diff OLD NEW or render OLD, or none of them")


def _assess(spec: Spec, options: Options, allowed: str, *, bare: bool) -> report.Document:
    """Assess a service whose database is on this machine, or on the host that is allowed."""
    host = spec.database.address[0] if spec.database else "localhost"
    if host not in {*LOOPBACK, allowed}:
        raise SpecError(
            f"[database] url: {host} is not on this machine; its connections are broken and rows "
            f"are written: --allow-database {host} allows it"
        )
    for name in spec.checks:
        path = (spec.project or Path()) / name
        if path.suffix != ".py" or not path.is_file():
            raise SpecError(f"checks: {name} is no file of Python")
        runpy.run_path(str(path))
    return report.document_of(asyncio.run(_run(spec, options, bare=bare)))


async def _run(spec: Spec, options: Options, *, bare: bool) -> Run:
    warning = "it will be signalled, killed and flooded, and rows are written"
    click.echo(f"{spec.name}: starting; {warning}")
    if bare and spec.read is None:
        spec = await guess(spec, os.environ)
        click.echo(f"guessed, to go on with as assess.toml:\n\n{toml_of(spec)}")

    def say(name: str, result: CheckResult) -> None:
        click.echo(report.line(name, result))

    return await run(spec, os.environ, options, on_result=say)


def _init(path: Path, command: list[str]) -> int:
    if path.exists():
        raise SpecError(f"{path} is there already")
    spec = asyncio.run(guess(_spec(None, command), os.environ))
    path.write_text(toml_of(spec), encoding="utf-8")
    click.echo(f"{path} is written; complete it by hand: [auth], [database]")
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
        click.echo(f"{entry.id:<8}{entry.title}{gate}")
        if name:
            click.echo(f"\n{entry.does}\n\nwith harden: {entry.harden}\nwithout: {entry.without}")
    return DONE


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _show(document: report.Document, paths: Mapping[str, Path | None]) -> int:
    """Print the summary, and write the other formats that were asked for."""
    click.echo("\n".join(report.summary(document)))
    for name, form in _FORMATS.items():
        if path := paths.get(name):
            with path.open("a" if name == "markdown" else "w", encoding="utf-8") as file:
                file.write(form(document))
    return DONE


def _code(document: report.Document, *, fail_below: str | None, baseline: Path | None) -> int:
    checks = [*document["checks"], *document["own"]]
    if any(check["outcome"] == Outcome.ERROR for check in checks):
        return UNDETERMINED
    names = report.worse(_read(baseline), document) if baseline else []
    if names:
        click.echo(f"assess: worse than in {baseline}: {', '.join(names)}", err=True)
        return BELOW
    grade = document["grade"]
    if fail_below and is_below(grade["highest"], fail_below):
        return BELOW
    if fail_below and is_below(grade["lowest"], fail_below):
        problem = f"{report.grade_text(document)} may be below {fail_below}: too much did not run"
        click.echo(f"assess: {problem}", err=True)
        return UNDETERMINED
    return DONE


def _diff(old: report.Document, new: report.Document) -> int:
    click.echo(f"{report.grade_text(old)} -> {report.grade_text(new)}")
    for name, was, now in report.changes(old, new):
        click.echo(f"  {name:<8}{was['word']} -> {now['word']}: {now['evidence']}")
    return DONE
