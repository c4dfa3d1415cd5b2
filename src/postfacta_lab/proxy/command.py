"""The command `postfacta lab proxy`: the fault proxy behind the HTTP API of Toxiproxy 2.12."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import signal
import socket
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, TypeVar, cast
from urllib.parse import unquote

import click

from ..engine.http import Reply, Request, serving
from ..engine.values import Fields
from ..verdict import Verdict
from .proxies import Proxy, split
from .toxics import STREAMS, TYPES, Toxic, attributes_of

_VERSION = "2.12.0+postfacta"
_BODY = "bad request body"
_CREATES = (["POST", "proxies"], ["POST", "populate"])
# What each field of a body must be.
_STRING = ("a string", (str,))
_FIELDS: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "name": _STRING,
    "listen": _STRING,
    "upstream": _STRING,
    "type": _STRING,
    "stream": _STRING,
    "enabled": ("true or false", (bool,)),
    "toxicity": ("a number", (int, float)),
    "attributes": ("an object", (dict,)),
}
_Item = TypeVar("_Item")


@click.command("proxy")
@click.option(
    "--host", default="127.0.0.1", help="Of its API; any but a loopback address opens proxies too."
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
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host)
    shown = f"[{host}]" if address.version == 6 else host
    api = Api(everywhere=not address.is_loopback)
    async with serving(api, listener):
        click.echo(f"listening on http://{shown}:{port}")
        await ended.wait()
    await api.stop()


class _RefusedError(Exception):
    """A request that cannot be granted, and the HTTP status that says so."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Answers requests about the proxies that it keeps, one at a time.

    If `everywhere`, other machines may reach them.
    """

    def __init__(self, *, everywhere: bool = False) -> None:
        self.proxies: dict[str, Proxy] = {}
        self._everywhere = everywhere
        self._turn = asyncio.Lock()

    async def __call__(self, request: Request) -> Reply:
        if request.headers.get("user-agent", "").startswith("Mozilla/"):
            # As the original does: any page could else send requests to a loopback address.
            return Reply(403, b"User agent not allowed\n")
        target, _, _ = request.target.partition("?")
        path = [unquote(part) for part in target.split("/")[1:]]
        call = [request.method, *path]
        try:
            async with self._turn:
                fields = json.loads(request.body or b"null")
                document = await self._answer(call, fields)
            status = 200
            if document is None:
                status = 204
            elif call in _CREATES:
                status = 201
        except _RefusedError as error:
            document = str(error)
            status = error.status
        except ValueError as error:
            document = f"{_BODY}: {error}"
            status = 400
        except OSError as error:
            document = str(error)
            status = 500
        if status >= 400:
            document = {"error": document, "status": status}
        body = b"" if document is None else json.dumps(document).encode()
        return Reply(status, body, "application/json")

    async def stop(self) -> None:
        async with self._turn:
            for proxy in self.proxies.values():
                await proxy.stop()

    async def _answer(self, call: list[str], body: object) -> object:
        """Return what is said as JSON, None for nothing."""
        document: object = None
        match call:
            case ["GET", "version"]:
                document = {"version": _VERSION}
            case ["POST", "reset"]:
                for proxy in self.proxies.values():
                    await proxy.start()
                    proxy.arrange([])
            case ["POST", "populate"]:
                document = {"proxies": await self._put(_array(body), replaces=True)}
            case ["GET", "proxies"]:
                document = {name: proxy.as_json() for name, proxy in self.proxies.items()}
            case ["POST", "proxies"]:
                (document,) = await self._put([body], replaces=False)
            case [method, "proxies", name, *tail]:
                proxy = _item(self.proxies, name, "proxy")
                document = await self._answer_proxy(proxy, [method, *tail], body)
            case _:
                raise _RefusedError("page not found", 404)
        return document

    async def _answer_proxy(self, proxy: Proxy, call: list[str], body: object) -> object:
        document: object = None
        match call:
            case ["GET"]:
                document = proxy.as_json()
            case ["POST" | "PATCH"]:
                document = await self._update(proxy, _object(body))
            case ["DELETE"]:
                await proxy.stop()
                del self.proxies[proxy.name]
            case [method, "toxics", *tail]:
                document = _answer_toxics(proxy, [method, *tail], body)
            case _:
                raise _RefusedError("page not found", 404)
        return document

    async def _put(self, bodies: list[object], *, replaces: bool) -> list[object]:
        """Make all of a list, or none if one makes no sense.

        One with the same addresses is left alone.
        """
        new: list[tuple[Proxy, bool]] = []
        for number, body in enumerate(bodies, 1):
            place = f" at proxy {number}" if replaces else ""
            new.append(self._new(_object(body), place))
        for proxy, is_enabled in new:
            before = self.proxies.get(proxy.name)
            addresses = (proxy.listen, proxy.upstream)
            if before is not None:
                if (before.listen, before.upstream) == addresses:
                    continue
                await before.stop()
            if is_enabled:
                await proxy.start()
            self.proxies[proxy.name] = proxy
        return [self.proxies[proxy.name].as_json() for proxy, _ in new]

    def _new(self, fields: Fields, place: str) -> tuple[Proxy, bool]:
        """Make a proxy that is not among them yet; return it, and whether it shall listen."""
        for name in ("name", "upstream"):
            if not fields.get(name):
                raise _RefusedError(f"missing required field: {name}{place}")
        if not place and fields["name"] in self.proxies:
            raise _RefusedError("proxy already exists", 409)
        listen = self._allowed(fields.get("listen") or "127.0.0.1:0")
        proxy = Proxy(fields["name"], listen, fields["upstream"])
        return proxy, fields.get("enabled", True)

    async def _update(self, proxy: Proxy, fields: Fields) -> object:
        """Change a proxy; new addresses drop its connections."""
        listen = self._allowed(fields.get("listen", proxy.listen))
        upstream = fields.get("upstream", proxy.upstream)
        enabled = fields.get("enabled", proxy.enabled)
        if not enabled or (listen, upstream) != (proxy.listen, proxy.upstream):
            await proxy.stop()
            proxy.listen = listen
            proxy.upstream = upstream
        if enabled:
            await proxy.start()
        return proxy.as_json()

    def _allowed(self, listen: str) -> str:
        """Return an address to listen on, with the host as a number.

        Other machines may not reach it unasked.
        """
        host, port = split(listen)
        host = {"localhost": "127.0.0.1", "": "0.0.0.0"}.get(host, host)  # noqa: S104 - which is refused, or was asked for
        if not (self._everywhere or ipaddress.ip_address(host).is_loopback):
            raise _RefusedError(f"{listen} is no loopback address: start the proxy with --host")
        if ":" in host:
            return f"[{host}]:{port}"
        return f"{host}:{port}"


def _answer_toxics(proxy: Proxy, call: list[str], body: object) -> object:
    """Answer a request about the toxics of a proxy."""
    document: object = None
    match call:
        case ["GET"]:
            document = proxy.as_json()["toxics"]
        case ["POST"]:
            toxic = _new_toxic(_object(body))
            if toxic.name in proxy.toxics:
                raise _RefusedError("toxic already exists", 409)
            document = _put(proxy, toxic)
        case ["GET", name]:
            document = asdict(_item(proxy.toxics, name, "toxic"))
        case ["POST" | "PATCH", name]:
            toxic = _item(proxy.toxics, name, "toxic")
            document = _put(proxy, _changed(toxic, _object(body)))
        case ["DELETE", name]:
            removed = _item(proxy.toxics, name, "toxic")
            proxy.arrange(toxic for toxic in proxy.toxics.values() if toxic is not removed)
        case _:
            raise _RefusedError("page not found", 404)
    return document


def _put(proxy: Proxy, toxic: Toxic) -> object:
    """Put a toxic where the one of its name was, or behind all others."""
    toxics = {**proxy.toxics, toxic.name: toxic}
    proxy.arrange(toxics.values())
    return asdict(toxic)


def _new_toxic(fields: Fields) -> Toxic:
    kind = fields.get("type", "")
    stream = fields.get("stream", "downstream").lower()
    if stream not in STREAMS:
        raise _RefusedError("stream was invalid, can be either upstream or downstream")
    if kind not in TYPES:
        raise _RefusedError("invalid toxic type")
    toxic = Toxic(
        name=fields.get("name") or f"{kind}_{stream}",
        type=kind,
        stream=stream,
        toxicity=1.0,
        attributes={},
    )
    return _changed(toxic, fields)


def _changed(toxic: Toxic, fields: Fields) -> Toxic:
    """Change toxicity and attributes.

    The rest of a toxic stays as it is, whatever the request says.
    """
    toxicity = float(fields.get("toxicity", toxic.toxicity))
    if not 0 <= toxicity <= 1:
        raise ValueError("toxicity must be a number from 0 to 1")
    changes = fields.get("attributes", {})
    attributes = attributes_of(toxic.type, {**toxic.attributes, **changes})
    return replace(toxic, toxicity=toxicity, attributes=attributes)


def _item(items: dict[str, _Item], name: str, kind: str) -> _Item:
    if name not in items:
        raise _RefusedError(f"{kind} not found", 404)
    return items[name]


def _array(body: object) -> list[object]:
    if not isinstance(body, list):
        raise ValueError("not an array")  # noqa: TRY004 - a wrong request
    return cast("list[object]", body)


def _object(body: object) -> dict[str, Any]:
    """Return the fields that are given, each of the right kind."""
    if not isinstance(body, dict):
        raise ValueError("not an object")  # noqa: TRY004 - a wrong request
    members = cast("dict[str, Any]", body).items()
    fields = {name: value for name, value in members if value is not None}
    for name, (kind, types) in _FIELDS.items():
        if name in fields and type(fields[name]) not in types:
            raise ValueError(f"{name} must be {kind}")
    return fields
