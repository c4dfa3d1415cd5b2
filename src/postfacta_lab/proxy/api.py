"""The HTTP API of the fault proxy: Toxiproxy 2.12's."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar, cast
from urllib.parse import unquote

from ..engine.http import Reply, Request, as_json
from .links import STREAMS
from .proxies import ApiError, Proxies
from .toxics import TYPES, Effect, Toxic, effect_of

__all__ = ["Api"]

VERSION = "2.12.0+postfacta"
_Field = TypeVar("_Field", bound=str | bool)


@dataclass(frozen=True, slots=True)
class _Call:
    """A request for one of the endpoints."""

    body: bytes
    names: Mapping[str, str]


_Endpoint = Callable[[_Call], Awaitable[Reply]]


class Api:
    """Answers requests about these proxies."""

    def __init__(self, proxies: Proxies) -> None:
        self._proxies = proxies
        self._endpoints = [
            (methods.split(), path.split("/")[1:], answer) for path, methods, answer in self._table()
        ]

    async def __call__(self, request: Request) -> Reply:
        """Answer a request."""
        if request.headers.get("user-agent", "").startswith("Mozilla/"):
            # As the original does: any page could else send requests to a loopback address.
            return Reply(403, b"User agent not allowed\n")
        segments = [unquote(part) for part in request.target.partition("?")[0].split("/")[1:]]
        for methods, path, answer in self._endpoints:
            if request.method in methods and _fits(path, segments):
                try:
                    return await answer(_Call(request.body, dict(zip(path, segments, strict=True))))
                except (ApiError, OSError) as error:
                    return _refuse(error)
        return Reply(404, b"404 page not found\n")

    def _table(self) -> list[tuple[str, str, _Endpoint]]:
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

    async def version(self, call: _Call) -> Reply:
        return as_json({"version": VERSION})

    async def reset(self, call: _Call) -> Reply:
        async with self._proxies.changing:
            await self._proxies.reset()
        return Reply(204)

    async def list_proxies(self, call: _Call) -> Reply:
        return as_json({name: proxy.as_json() for name, proxy in self._proxies.by_name.items()})

    async def create_proxy(self, call: _Call) -> Reply:
        fields = _ProxyFields(_mapping(_body(call)))
        fields.require()
        async with self._proxies.changing:
            proxy = self._proxies.new(fields.name, fields.listen, fields.upstream)
            await self._proxies.add(proxy, enabled=fields.enabled)
        return as_json(proxy.as_json(), 201)

    async def populate(self, call: _Call) -> Reply:
        given = _body(call)
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
                return _refuse(error, proxies=done)
        return as_json({"proxies": done}, 201)

    async def show_proxy(self, call: _Call) -> Reply:
        return as_json(self._proxies.find(call.names["{proxy}"]).as_json())

    async def update_proxy(self, call: _Call) -> Reply:
        body = _body(call)
        async with self._proxies.changing:
            proxy = self._proxies.find(call.names["{proxy}"])
            now: dict[str, object] = {
                "listen": proxy.listen,
                "upstream": proxy.upstream,
                "enabled": proxy.enabled,
            }
            fields = _ProxyFields(_mapping(body), now)
            await self._proxies.update(proxy, fields.listen, fields.upstream, enabled=fields.enabled)
            return as_json(proxy.as_json())

    async def delete_proxy(self, call: _Call) -> Reply:
        async with self._proxies.changing:
            await self._proxies.remove(call.names["{proxy}"])
        return Reply(204)

    async def list_toxics(self, call: _Call) -> Reply:
        proxy = self._proxies.find(call.names["{proxy}"])
        return as_json([toxic.as_json() for toxic in proxy.sorted_toxics()])

    async def create_toxic(self, call: _Call) -> Reply:
        body = _body(call)
        async with self._proxies.changing:
            proxy = self._proxies.find(call.names["{proxy}"])
            toxic = _new_toxic(_mapping(body), {toxic.name for toxic in proxy.toxics})
            await proxy.arrange([*proxy.toxics, toxic])
        return as_json(toxic.as_json())

    async def show_toxic(self, call: _Call) -> Reply:
        proxy = self._proxies.find(call.names["{proxy}"])
        return as_json(proxy.toxic(call.names["{toxic}"]).as_json())

    async def update_toxic(self, call: _Call) -> Reply:
        body = _body(call)
        async with self._proxies.changing:
            proxy = self._proxies.find(call.names["{proxy}"])
            old = proxy.toxic(call.names["{toxic}"])
            new = _changed_toxic(old, _mapping(body))
            await proxy.arrange([new if toxic is old else toxic for toxic in proxy.toxics])
        return as_json(new.as_json())

    async def delete_toxic(self, call: _Call) -> Reply:
        async with self._proxies.changing:
            proxy = self._proxies.find(call.names["{proxy}"])
            old = proxy.toxic(call.names["{toxic}"])
            await proxy.arrange([toxic for toxic in proxy.toxics if toxic is not old])
        return Reply(204)


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


def _body(call: _Call) -> object:
    try:
        body: object = json.loads(call.body)
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


def _refuse(error: ApiError | OSError, **more: object) -> Reply:
    """Answer an error as the original does; one of the operating system has no better status."""
    status = error.status if isinstance(error, ApiError) else 500
    return as_json({"error": str(error), "status": status, **more}, status)


def _fits(path: list[str], segments: list[str]) -> bool:
    return len(path) == len(segments) and all(
        name.startswith("{") or name == found for name, found in zip(path, segments, strict=True)
    )
