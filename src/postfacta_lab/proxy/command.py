"""The command `postfacta lab proxy`."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket

import click

from ..engine.http import serving
from ..verdict import Verdict
from .api import Api

__all__ = ["command"]


@click.command("proxy")
@click.option(
    "--host", default="127.0.0.1", help="Where its API listens; any but a loopback address opens proxies too."
)
@click.option("--port", default=8474, help="Of the API; 0 takes a free one.")
def command(host: str, port: int) -> Verdict:
    """Break TCP connections on request, through the HTTP API of Toxiproxy 2.12.

    It prints the address that it listens on, and ends on Ctrl-C or SIGTERM.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error}") from None
    with listener:
        asyncio.run(_serve(listener))
    return Verdict.PASS


async def _serve(listener: socket.socket) -> None:
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    host, port = listener.getsockname()[:2]
    api = Api(everywhere=not ipaddress.ip_address(host).is_loopback)
    async with serving(api, listener):
        click.echo(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}")
        await ended.wait()
    await api.stop()
