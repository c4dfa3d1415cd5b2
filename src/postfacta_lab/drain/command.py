"""The command `postfacta lab drain`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import click

from ..load.mix import read_mix
from ..verdict import Verdict, overall
from .result import text
from .stop import Service, command_line, roll, stop


@click.command(
    "drain",
    epilog="Example: postfacta lab drain --path /invoices/7 -- uvicorn billing:app --port {port}",
)
@click.argument("words", nargs=-1, required=True, metavar="-- COMMAND...")
@click.option("--path", "paths", multiple=True, help="What users ask for by GET; may be repeated.")
@click.option(
    "--mix", type=Path, help="A file of requests; those with a body are half-sent at SIGTERM."
)
@click.option(
    "--slow", multiple=True, help="The path of a long request; five are under way at SIGTERM."
)
@click.option("--ready", default="", help="The readiness path, if there is one.")
@click.option(
    "--notice",
    default=1.5,
    show_default=True,
    help="Seconds that its balancer still sends.",
)
@click.option(
    "--grace",
    default=30.0,
    show_default=True,
    help="Seconds from the signal to its end.",
)
@click.option("--start", default=30.0, show_default=True, help="Seconds until it answers, at most.")
@click.option("--rolling", default=0, help="Restart two instances behind HAProxy as often, too.")
def command(
    *,
    words: tuple[str, ...],
    paths: tuple[str, ...],
    mix: Path | None,
    rolling: int,
    **behaviour: Any,
) -> Verdict:
    """Stop a service under load by SIGTERM, and count what its clients noticed.

    The command starts it in the foreground on the port of 127.0.0.1 that stands for {port}, and in
    PORT.
    """
    read_mix([*behaviour["slow"], behaviour["ready"] or "/"], None)  # whether they are paths
    service = Service(command=command_line(words), asks=read_mix(paths, mix), **behaviour)
    if not service.paths:
        raise click.ClickException(
            "the mix must have a request by GET, for clients that keep connections"
        )
    with tempfile.TemporaryDirectory(prefix="drain-") as folder:
        results = [asyncio.run(stop(service, Path(folder)))]
        click.echo(text(results))
        if rolling and results[0].verdict is not Verdict.NOTHING:
            results.append(asyncio.run(roll(service, Path(folder), rolling)))
            click.echo(text(results[-1:]))
    return overall(result.verdict for result in results)
