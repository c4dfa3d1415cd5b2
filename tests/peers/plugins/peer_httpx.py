"""Let each client of httpx send through `Outgoing`, with a guard around each request, or through a wrapper that does nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Self

import httpx

from postfacta_adapters.httpx import Outgoing
from postfacta_core.guards import Bulkhead


class Around:
    """A transport around another one."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.handle_request = getattr(inner, "handle_request", None)
        self.handle_async_request = getattr(inner, "handle_async_request", None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._inner.__exit__(*raised)

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._inner.__aexit__(*raised)


def _same(inner: Any) -> Any:
    return inner


_LANES: dict[str, Callable[[Any], Any]] = {
    "plain": _same,
    "control": Around,
    "ours": Outgoing("peer", Bulkhead("peer", 50)).transport,
}
_around = _LANES[os.environ["PEER_LANE"]]


def _wrap(client: Any, method: str) -> None:
    original = getattr(client, method)

    def init(self: Any, *args: Any, **options: Any) -> Any:
        return _around(original(self, *args, **options))

    setattr(client, method, init)


for _client in (httpx.Client, httpx.AsyncClient):
    _wrap(_client, "_init_transport")
    _wrap(_client, "_init_proxy_transport")
