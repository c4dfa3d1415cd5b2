"""A TCP proxy that breaks connections on request, through the HTTP API of Toxiproxy 2.12.

    python -m chaos.proxy [--host 127.0.0.1] [--port 8474]

It prints the address that it listens on, and ends on Ctrl-C or SIGTERM. See docs/reference/fault-proxy.md.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TypeVar, cast

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .links import STREAMS
from .proxies import ApiError, Proxies
from .toxics import TYPES, Effect, Toxic, effect_of

__all__ = ["create_app", "main"]

VERSION = "2.12.0+postfacta"
_Field = TypeVar("_Field", bound=str | bool)
_Endpoint = Callable[[Request], Awaitable[Response]]
_GRACE = 5  # seconds for API requests that are under way at its end


class _NoBrowsers:
    """Keep browsers out, as the original does: any page could else send requests to a loopback address."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and Request(scope).headers.get("user-agent", "").startswith("Mozilla/"):
            app = PlainTextResponse("User agent not allowed\n", 403)
        await app(scope, receive, send)


class _Api:
    """The endpoints."""

    def __init__(self, proxies: Proxies) -> None:
        self._proxies = proxies

    def endpoints(self) -> list[tuple[str, str, _Endpoint]]:
        """List paths, methods, and who answers."""
        proxy, toxic = "/proxies/{proxy}", "/proxies/{proxy}/toxics/{toxic}"
        return [
            ("/version", "GET", self.version),
            ("/reset", "POST", self.reset),
            ("/populate", "POST", self.populate),
            ("/proxies", "GET", self.list_proxies),
            ("/proxies", "POST", self.create_proxy),
            (proxy, "GET", self.show_proxy),
            (proxy, "POST PATCH", self.update_proxy),
            (proxy, "DELETE", self.delete_proxy),
            (f"{proxy}/toxics", "GET", self.list_toxics),
            (f"{proxy}/toxics", "POST", self.create_toxic),
            (toxic, "GET", self.show_toxic),
            (toxic, "POST PATCH", self.update_toxic),
            (toxic, "DELETE", self.delete_toxic),
        ]

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": VERSION})

    async def reset(self, request: Request) -> Response:
        async with self._proxies.changing:
            await self._proxies.reset()
        return Response(status_code=204)

    async def list_proxies(self, request: Request) -> Response:
        return JSONResponse({name: proxy.as_json() for name, proxy in self._proxies.by_name.items()})

    async def create_proxy(self, request: Request) -> Response:
        fields = _ProxyFields(_mapping(await _body(request)))
        fields.require()
        async with self._proxies.changing:
            proxy = self._proxies.new(fields.name, fields.listen, fields.upstream)
            await self._proxies.add(proxy, enabled=fields.enabled)
        return JSONResponse(proxy.as_json(), 201)

    async def populate(self, request: Request) -> Response:
        given = await _body(request)
        if not isinstance(given, list):
            raise _bad("not an array")
        every = [_ProxyFields(_mapping(one)) for one in cast("list[object]", given)]
        for number, fields in enumerate(every, start=1):
            fields.require(f" at proxy {number}")
        done: list[dict[str, object]] = []
        async with self._proxies.changing:
            try:
                for fields in every:
                    new = self._proxies.new(fields.name, fields.listen, fields.upstream)
                    done.append((await self._proxies.put(new, enabled=fields.enabled)).as_json())
            except (ApiError, OSError) as error:
                return _answer(error, proxies=done)
        return JSONResponse({"proxies": done}, 201)

    async def show_proxy(self, request: Request) -> Response:
        return JSONResponse(self._proxies.find(request.path_params["proxy"]).as_json())

    async def update_proxy(self, request: Request) -> Response:
        body = await _body(request)
        async with self._proxies.changing:
            proxy = self._proxies.find(request.path_params["proxy"])
            now: dict[str, object] = {
                "listen": proxy.listen,
                "upstream": proxy.upstream,
                "enabled": proxy.enabled,
            }
            fields = _ProxyFields(_mapping(body), now)
            await self._proxies.update(proxy, fields.listen, fields.upstream, enabled=fields.enabled)
            return JSONResponse(proxy.as_json())

    async def delete_proxy(self, request: Request) -> Response:
        async with self._proxies.changing:
            await self._proxies.remove(request.path_params["proxy"])
        return Response(status_code=204)

    async def list_toxics(self, request: Request) -> Response:
        proxy = self._proxies.find(request.path_params["proxy"])
        return JSONResponse([toxic.as_json() for toxic in proxy.sorted_toxics()])

    async def create_toxic(self, request: Request) -> Response:
        body = await _body(request)
        async with self._proxies.changing:
            proxy = self._proxies.find(request.path_params["proxy"])
            toxic = _new_toxic(_mapping(body), {toxic.name for toxic in proxy.toxics})
            await proxy.arrange([*proxy.toxics, toxic])
        return JSONResponse(toxic.as_json())

    async def show_toxic(self, request: Request) -> Response:
        proxy = self._proxies.find(request.path_params["proxy"])
        return JSONResponse(proxy.toxic(request.path_params["toxic"]).as_json())

    async def update_toxic(self, request: Request) -> Response:
        body = await _body(request)
        async with self._proxies.changing:
            proxy = self._proxies.find(request.path_params["proxy"])
            old = proxy.toxic(request.path_params["toxic"])
            new = _changed_toxic(old, _mapping(body))
            await proxy.arrange([new if toxic is old else toxic for toxic in proxy.toxics])
        return JSONResponse(new.as_json())

    async def delete_toxic(self, request: Request) -> Response:
        async with self._proxies.changing:
            proxy = self._proxies.find(request.path_params["proxy"])
            old = proxy.toxic(request.path_params["toxic"])
            await proxy.arrange([toxic for toxic in proxy.toxics if toxic is not old])
        return Response(status_code=204)


class _ProxyFields:
    """What a request says of a proxy; what it does not say stays as it is now."""

    def __init__(self, body: Mapping[str, object], now: Mapping[str, object] | None = None) -> None:
        now = now or {}
        self.name = _field(body, "name", "")
        self.listen = _field(body, "listen", str(now.get("listen", "")))
        self.upstream = _field(body, "upstream", str(now.get("upstream", "")))
        self.enabled = _field(body, "enabled", bool(now.get("enabled", True)))

    def require(self, where: str = "") -> None:
        """Refuse a new proxy that lacks something."""
        for name, value in (("name", self.name), ("upstream", self.upstream)):
            if not value:
                raise ApiError(f"missing required field: {name}{where}", 400)


def create_app(*, everywhere: bool = False) -> Starlette:
    """Make the API; its proxies live as long as its lifespan.

    Args:
        everywhere: Whether proxies may listen on addresses that other machines reach.
    """
    proxies = Proxies(everywhere=everywhere)
    api = _Api(proxies)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        async with proxies:
            yield

    return Starlette(
        routes=[
            Route(path, endpoint, methods=methods.split()) for path, methods, endpoint in api.endpoints()
        ],
        middleware=[Middleware(_NoBrowsers)],
        exception_handlers={ApiError: _answer_error, OSError: _answer_error},
        lifespan=lifespan,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Listen until Ctrl-C or SIGTERM; tell by the exit code whether that went well."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos.proxy", description="Break TCP connections on request."
    )
    parser.add_argument("--host", default="127.0.0.1", help="any but a loopback address opens proxies too")
    parser.add_argument("--port", type=int, default=8474, help="0 takes a free one")
    options = parser.parse_args(arguments)
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listener = socket.create_server((options.host, options.port), family=family)
    except (OSError, OverflowError) as error:
        print(f"cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)  # noqa: T201 - its job
        return 1
    with listener:
        host, port = listener.getsockname()[:2]
        app = create_app(everywhere=not ipaddress.ip_address(host).is_loopback)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                loop="asyncio",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=_GRACE,
            )
        )
        print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)  # noqa: T201 - its job
        # uvicorn raises the signal again after its graceful stop.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    return 0 if server.started else 1


async def _body(request: Request) -> object:
    try:
        body: object = json.loads(await request.body())
    except ValueError as error:
        raise _bad(str(error)) from error
    return body


def _mapping(given: object) -> Mapping[str, object]:
    if not isinstance(given, dict):
        raise _bad("not an object")
    return cast("dict[str, object]", given)


def _field(body: Mapping[str, object], name: str, default: _Field) -> _Field:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, type(default)):
        raise _bad(f"{name} must be {'a string' if isinstance(default, str) else 'true or false'}")
    return value


def _toxicity(body: Mapping[str, object], default: float) -> float:
    value = body.get("toxicity")
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise _bad("toxicity must be a number from 0 to 1")
    return value


def _effect(body: Mapping[str, object], kind: type[Effect], before: Effect | None = None) -> Effect:
    attributes = body.get("attributes")
    try:
        return effect_of(kind, {} if attributes is None else _mapping(attributes), before)
    except ValueError as error:
        raise _bad(str(error)) from error


def _new_toxic(body: Mapping[str, object], taken: Collection[str]) -> Toxic:
    kind, stream = _field(body, "type", ""), _field(body, "stream", "downstream").lower()
    toxicity = _toxicity(body, 1.0)
    if stream not in STREAMS:
        raise ApiError("stream was invalid, can be either upstream or downstream", 400)
    if kind not in TYPES:
        raise ApiError("invalid toxic type", 400)
    name = _field(body, "name", "") or f"{kind}_{stream}"
    if name in taken:
        raise ApiError("toxic already exists", 409)
    return Toxic(name, kind, stream, toxicity, _effect(body, TYPES[kind]))


def _changed_toxic(toxic: Toxic, body: Mapping[str, object]) -> Toxic:
    """Change toxicity and attributes; the rest of a toxic stays as it is, whatever the request says."""
    effect = _effect(body, TYPES[toxic.type], toxic.effect)
    return replace(toxic, toxicity=_toxicity(body, toxic.toxicity), effect=effect)


def _bad(why: str) -> ApiError:
    return ApiError(f"bad request body: {why}", 400)


def _answer(error: ApiError | OSError, **more: object) -> JSONResponse:
    """Answer an error as the original does; one of the operating system has no better status."""
    status = error.status if isinstance(error, ApiError) else 500
    return JSONResponse({"error": str(error), "status": status, **more}, status)


async def _answer_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError | OSError):
        raise error
    return _answer(error)


if __name__ == "__main__":
    sys.exit(main())
