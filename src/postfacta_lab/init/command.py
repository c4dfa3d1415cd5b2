"""The command `postfacta lab init`."""

from __future__ import annotations

import asyncio
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from ..drain.stop import Service, Subject
from ..engine.client import Answer, ask, encode
from ..engine.values import as_dict
from ..engine.variables import credentials
from ..verdict import Verdict
from .starter import DOCUMENTS, READINESS, Found, candidates, files

__all__ = ["command"]


@click.command("init", epilog="Example: postfacta lab init -- uvicorn billing:app --port {port}")
@click.argument("words", nargs=-1, required=True, metavar="-- COMMAND...")
@click.option("--path", "paths", multiple=True, help="What users ask for by GET; may be repeated.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(), help="Where the suite is written.")
@click.option("--start", default=30.0, show_default=True, help="Seconds until it answers, at most.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def command(
    *, words: tuple[str, ...], paths: tuple[str, ...], folder: Path, start: float, force: bool
) -> Verdict:
    """Write a suite for a service: what its users ask for, tests by pytest, a workflow for CI.

    The service is started by its command, and its OpenAPI document is read, if it has one. Only what it answers by GET
    with 200 to 299 is taken; nothing is written to it.
    """
    line = " ".join(words) if len(words) == 1 else shlex.join(words)
    if "{port}" not in line:
        raise click.ClickException("say where the port goes: uvicorn billing:app --port {port}")
    found = asyncio.run(_look(line, paths, start))
    if not found.paths:
        names = ", ".join(paths) or "the paths of its OpenAPI document, if any, and /"
        raise click.ClickException(f"nothing was answered with 200 to 299: tried {names}; name one by --path")
    made = {folder / name: text for name, text in files(found).items()}
    if there := [str(path) for path in made if path.exists() and not force]:
        raise click.ClickException(f"{there[0]} is there already: --force replaces it")
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        click.echo(f"wrote {path}")
    click.echo(
        f"{len(found.paths)} requests, readiness {found.ready or 'unknown'}. Run it: pytest {folder / 'reliability'}"
    )
    return Verdict.PASS


async def _look(line: str, paths: tuple[str, ...], start: float) -> Found:
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        subject = Subject(Service(command=line, asks=()), Path(folder))
        try:
            subject.start()
        except OSError as error:
            raise click.ClickException(f"it did not start: {error}") from None
        try:
            await _await_answer(subject, start)
            document = await _document(subject.port)
            wanted, others = (list(paths), {}) if paths else candidates(document)
            # A service that answers everything with 200 says nothing about itself.
            says = await _status(subject.port, "/no-such-path-of-the-lab") != 200
            probes = [path for path in READINESS if says and await _status(subject.port, path) == 200]
            good: list[str] = []
            for path in [path for path in wanted or ["/"] if path not in {*READINESS, "/metrics"}]:
                status = await _status(subject.port, path)
                if 200 <= status < 300:
                    good.append(path)
                else:
                    others[f"GET {path}"] = f"answered {status}" if status else "no answer"
        finally:
            subject.kill()
    return Found(line, tuple(good), probes[0] if probes else "", others)


async def _await_answer(subject: Subject, start: float) -> None:
    until = time.monotonic() + start
    while not await _status(subject.port, "/"):
        if subject.code is not None or time.monotonic() > until:
            what = (
                f"gave no answer within {start:g} s" if subject.code is None else f"ended with {subject.code}"
            )
            said = subject.words.strip()[-1000:]
            raise click.ClickException(f"it {what}; it said: {said or 'nothing'}")
        await asyncio.sleep(0.1)


async def _document(port: int) -> dict[str, Any]:
    for path in DOCUMENTS:
        if (answer := await _get(port, path)).status == 200 and (found := as_dict(answer.json)):
            return found
    return {}


async def _status(port: int, path: str) -> int:
    return (await _get(port, path)).status


async def _get(port: int, path: str) -> Answer:
    return await ask(port, encode("GET", path, credentials()), patience=5.0)
