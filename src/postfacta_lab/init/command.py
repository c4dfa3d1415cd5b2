"""The command `postfacta lab init`."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..drain.stop import Service, StartError, Subject, command_line
from ..engine.client import Answer, ask, encode
from ..engine.values import as_dict
from ..engine.variables import credentials
from ..load.mix import read_mix
from ..verdict import Verdict
from .starter import DOCUMENTS, READINESS, Found, candidates, files

__all__ = ["command"]


@click.command("init", epilog="Example: postfacta lab init -- uvicorn billing:app --port {port}")
@click.argument("words", nargs=-1, required=True, metavar="-- COMMAND...")
@click.option("--path", "paths", multiple=True, help="What users ask for by GET; may be repeated.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(), help="Where the suite is written.")
def command(*, words: tuple[str, ...], paths: tuple[str, ...], folder: Path) -> Verdict:
    """Write a suite for a service: what its users ask for, tests by pytest, a workflow for CI.

    The service is started by its command, and its OpenAPI document is read, if it has one. Only what it answers by GET
    with 200 to 299 is taken; nothing is written to it.
    """
    try:
        service = Service(command=command_line(words), asks=read_mix(paths or ["/"], None))
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    found = asyncio.run(_look(service, paths))
    made = {folder / name: text for name, text in files(found).items()}
    if there := [str(path) for path in made if path.exists()]:
        raise click.ClickException(f"{there[0]} is there already: remove it, or name another --folder")
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        click.echo(f"wrote {path}")
    click.echo(
        f"{len(found.paths)} requests, readiness {found.ready or 'unknown'}. Run it: pytest {folder / 'reliability'}"
    )
    return Verdict.PASS


async def _look(service: Service, paths: Sequence[str]) -> Found:
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        subject = Subject(service, Path(folder))
        flaw = ""
        try:
            await subject.serve()
        except StartError as error:
            flaw = str(error)
        try:
            found = await _ask_around(service.command, subject.port, paths)
        finally:
            subject.kill()
    if flaw and not found.paths:
        raise click.ClickException(f"{flaw}\nname what it has by --path")
    return found


async def _ask_around(line: str, port: int, paths: Sequence[str]) -> Found:
    document: dict[str, Any] = {}
    for path in DOCUMENTS:
        answer = await _get(port, path)
        document = document or (as_dict(answer.json) if answer.status == 200 else {})
    wanted, others = (list(paths), {}) if paths else candidates(document)
    good: list[str] = []
    for path in [path for path in wanted or ["/"] if path not in {*READINESS, "/metrics"}]:
        answer = await _get(port, path)
        if answer.good:
            good.append(path)
        else:
            others[f"GET {path}"] = f"answered {answer}"
    # A service that answers everything with 200 says nothing about itself.
    says = (await _get(port, "/no-such-path-of-the-lab")).status != 200
    probes = [path for path in READINESS if says and (await _get(port, path)).status == 200]
    return Found(line, good, probes[0] if probes else "", others)


async def _get(port: int, path: str) -> Answer:
    return await ask(port, encode("GET", path, credentials()), patience=5.0)
