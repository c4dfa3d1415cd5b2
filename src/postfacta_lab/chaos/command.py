"""The command `postfacta lab chaos`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from ..engine.page import machine, page
from ..load.mix import read_mix
from ..verdict import Verdict, overall
from .experiment import VERDICTS, Experiment, run
from .report import overview, section_of

__all__ = ["command"]


@click.command(
    "chaos",
    epilog="Example: postfacta lab chaos restart.yaml --path /invoices/7 -- uvicorn billing:app --port {port}",
)
@click.argument("words", nargs=-1, required=True, metavar="FILE... [-- COMMAND...]")
@click.option("--url", help="A service that runs already, instead of a command that starts one.")
@click.option(
    "--path", "paths", multiple=True, required=True, help="What its users ask for by GET; may be repeated."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/chaos"), show_default=True)
def command(*, words: tuple[str, ...], url: str | None, paths: tuple[str, ...], out: Path) -> Verdict:
    """Run experiments of Chaos Toolkit on a service under load, and judge what its users went through.

    Chaos Toolkit's own verdict can only make ours worse. CHAOS_TOKEN is sent as a bearer token. It writes result.json
    and report.html.
    """
    files, start = _parted(words)
    try:
        settings = _settings(url, start, paths)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    out.mkdir(parents=True, exist_ok=True)
    done: list[Experiment] = []
    for file in files:
        click.echo(f"{file.stem}: running")
        done.append(run(file.absolute(), out, settings=settings))
        click.echo(_line(done[-1]))
    codes = {name: code for code, name in VERDICTS.items()}
    code = overall(codes[it.verdict] for it in done)
    result = {
        "verdict": VERDICTS[code],
        "exit_code": int(code),
        "machine": machine(),
        "experiments": [it.as_json() for it in done],
    }
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    sections = [overview(done), *(section_of(it) for it in done)]
    (out / "report.html").write_text(page("Chaos", VERDICTS[code], sections))
    click.echo(f"{VERDICTS[code]}; report: {out / 'report.html'}")
    return code


def _parted(words: Sequence[str]) -> tuple[list[Path], str]:
    """Part the files from the command: what ends in .yaml, .yml or .json comes first."""
    count = 0
    while count < len(words) and Path(words[count]).suffix in {".yaml", ".yml", ".json"}:
        count += 1
    files, rest = [Path(word) for word in words[:count]], words[count:]
    if missing := [file for file in files if not file.is_file()]:
        raise click.ClickException(f"there is no file {missing[0]}")
    if not files:
        raise click.ClickException(f"name the file of an experiment (.yaml, .yml, .json), not {words[0]}")
    return files, " ".join(rest) if len(rest) == 1 else shlex.join(rest)


def _settings(url: str | None, start: str, paths: Sequence[str]) -> dict[str, str]:
    read_mix(paths, None)
    if bool(url) == bool(start):
        raise ValueError("give --url, or a command that starts the service; not both")
    if url and not url.startswith(("http://", "https://")):
        raise ValueError(f"--url must begin with http:// or https://, not {url!r}")
    if start and "{port}" not in start:
        raise ValueError("say where the port goes: uvicorn billing:app --port {port}")
    where = {"CHAOS_URL": url} if url else {"CHAOS_COMMAND": start}
    return {**where, "CHAOS_READS": " ".join(paths)}


def _line(done: Experiment) -> str:
    users = done.users.get("users", {})
    fared = f"{users.get('count', 0)} requests, {users.get('failed', 0)} failed"
    recoveries = done.users.get("recoveries", [])
    first = f"{done.name}: {done.verdict}; {fared}, well again after {recoveries} s; {done.seconds:.0f} s"
    return "\n".join([first, *(f"  {reason}" for reason in done.reasons)])
