"""The command `postfacta lab chaos`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import click

from ..drain.stop import command_line
from ..engine.page import machine, page
from ..load.mix import read_mix
from ..verdict import Verdict, overall
from .experiment import VERDICTS, Experiment, overview, run, section_of

__all__ = ["command"]

_SUFFIXES = {".yaml", ".yml", ".json"}


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
    files = [Path(word) for word in takewhile(lambda word: Path(word).suffix in _SUFFIXES, words)]
    try:
        settings = _settings(files, words[len(files) :], url=url, paths=paths)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    out.mkdir(parents=True, exist_ok=True)
    done: list[Experiment] = []
    for file in files:
        click.echo(f"{file.stem}: running")
        done.append(run(file.absolute(), out, settings=settings))
        click.echo(done[-1].as_text())
    codes = {name: code for code, name in VERDICTS.items()}
    code = overall(codes[it.verdict] for it in done)
    experiments = [it.as_json() for it in done]
    result = {
        "verdict": VERDICTS[code],
        "exit_code": int(code),
        "machine": machine(),
        "experiments": experiments,
    }
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "report.html").write_text(page("Chaos", VERDICTS[code], [overview(done), *map(section_of, done)]))
    click.echo(f"{VERDICTS[code]}; report: {out / 'report.html'}")
    return code


def _settings(
    files: list[Path], start: Sequence[str], *, url: str | None, paths: Sequence[str]
) -> dict[str, str]:
    if not files:
        raise ValueError(f"name the file of an experiment (.yaml, .yml, .json), not {start[0]}")
    if missing := [file for file in files if not file.is_file()]:
        raise ValueError(f"there is no file {missing[0]}")
    read_mix(paths, None)  # whether they are paths
    if bool(url) == bool(start):
        raise ValueError("give --url, or a command that starts the service; not both")
    if url and not url.startswith(("http://", "https://")):
        raise ValueError(f"--url must begin with http:// or https://, not {url!r}")
    where = {"CHAOS_URL": url} if url else {"CHAOS_COMMAND": command_line(start)}
    return {**where, "CHAOS_READS": " ".join(paths)}
