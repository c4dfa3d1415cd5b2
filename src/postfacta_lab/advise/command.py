"""The command `postfacta lab advise`: numbers for a service, by what it measured."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import Any

import click

from ..engine.variables import credentials
from ..verdict import Verdict
from .advice import NAMES, Advice, advise_by_report, advise_by_scrape, as_toml, seconds_between
from .figures import growth, read

_MOST_BYTES = 33_554_432  # Of a scrape; one of 10,000 series has 1 MB.
_PATIENCE = 10.0  # Seconds of a silence, as Prometheus has by default for a scrape.


@click.command("advise", epilog="An address gets TOKEN as a bearer token.")
@click.argument("source")
@click.option("--since", help="An earlier scrape: what it counted already is left out.")
@click.option(
    "--guard",
    "guards",
    multiple=True,
    metavar="NAME=HOST[:PORT]",
    help="Which dependency a guard is for, if its name is not that of the host; may be repeated.",
)
@click.option("--toml", type=Path, help="Write a file of numbers there, as the service reads it.")
def command(
    *, source: str, since: str | None, guards: tuple[str, ...], toml: Path | None
) -> Verdict:
    """Advise time-outs, delays and sizes by SOURCE.

    It is a scrape of /metrics, as a file or an address, or the load.json of a run of `postfacta lab
    load`. Exit code 2: too little was measured for any number.
    """
    try:
        advices = _advices(source, since, guards)
        if toml:
            toml.write_text(as_toml(advices), encoding="utf-8")
    except (OSError, HTTPException) as error:
        raise click.ClickException(f"{source}: {error}") from None
    click.echo(_table(advices))
    is_any = any(advice.value is not None for advice in advices)
    return Verdict.PASS if is_any else Verdict.INVALID


def _advices(source: str, since: str | None, guards: Sequence[str]) -> list[Advice]:
    text = _text(source)
    addresses = dict(_pair(guard) for guard in guards)
    try:
        if text.lstrip().startswith("{"):
            advices = list(advise_by_report(_report(text)))
        else:
            after = read(text, NAMES)
            before = read(_text(since), NAMES) if since else None
            points = after if before is None else growth(before, after)
            seconds = seconds_between(after, before)
            advices = list(advise_by_scrape(points, seconds, addresses))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    if not advices:
        raise ValueError(f"{source}: has nothing that was measured: no requests, calls or loans")
    return advices


def _pair(text: str) -> tuple[str, str]:
    name, sign, address = text.partition("=")
    if not (name and sign and address):
        raise ValueError(f"--guard must be such as billing=billing.internal:8080, not {text!r}")
    return name, address


def _report(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply for a report") from None


def _text(source: str) -> str:
    if source.startswith(("http://", "https://")):
        request = urllib.request.Request(source)  # noqa: S310 - its scheme is checked
        for name, value in credentials().items():
            request.add_unredirected_header(name, value)
        opened: Any = urllib.request.urlopen(request, timeout=_PATIENCE)  # noqa: S310 - as above
    else:
        opened = Path(source).open("rb")  # noqa: SIM115 - closed below
    with closing(opened):
        content: bytes = opened.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{source}: more than {_MOST_BYTES:,} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{source}: is no text") from None


def _table(advices: Sequence[Advice]) -> str:
    lines: list[str] = []
    for advice in advices:
        value = "-" if advice.value is None else f"{advice.value:g}"
        lines.append(f"{advice.owner:<32}  {advice.number:<18}  {value:>8}  {advice.why}")
    return "\n".join(lines)
