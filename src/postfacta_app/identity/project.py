"""The Supabase project over HTTP: a client that is bounded in time and size, with a cache of the project's public keys.

Requests read the cache. One task fetches: at startup, when the keys are ten minutes old, or when a token names an
unknown key; at most once in 30 seconds, failed or not. Keys stay valid for a day without a fetch.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Final, NamedTuple, cast

import anyio
import httpx2
from jwt import PyJWK, PyJWKSet
from jwt.types import JWKDict
from pydantic import JsonValue

from postfacta_adapters.httpx import Outgoing, refusal_in
from postfacta_core.clock import MONOTONIC, Clock
from postfacta_core.errors import RejectedError
from postfacta_core.events import Observer, ignore
from postfacta_core.guards import Guard, Pipeline

from ..errors import slow_down
from ..settings import Settings

_MOST_BYTES: Final = 65_536
_OK, _TOO_MANY_REQUESTS, _SERVER_ERROR = 200, 429, 500
_LONGEST_KID: Final = 128  # Characters of a key's name.
_SOFT_AGE: Final = 600.0  # Seconds after which they are fetched again in the background.
_HARD_AGE: Final = 86_400.0
_PAUSE: Final = 30.0  # Seconds between fetches, failed or not.
_MOST_KEYS: Final = 16
_MOST_UNKNOWN: Final = 128
# By key type. Others could let the token choose its verification: `oct` is not a public key.
_ALGORITHMS: Final = {"EC": "ES256", "RSA": "RS256"}

Keys = Mapping[str, PyJWK]


class Reply(NamedTuple):
    """The status of a complete response, and its JSON object; empty if it is anything else, such as HTML."""

    status_code: int
    said: Mapping[str, JsonValue]


class Client(httpx2.AsyncClient):
    """Requests paths below `/auth/v1` of the project, through the guards, outermost first."""

    def __init__(
        self, name: str, current: Callable[[], Settings], *guards: Guard, observer: Observer = ignore
    ) -> None:
        self.name: str = name
        self._pipeline = Pipeline(*guards)
        self._current = current
        outgoing = Outgoing(name, tell=False, observer=observer)
        super().__init__(
            base_url=f"{current().db_url}/auth/v1/",
            # A compressed response could expand a thousandfold.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            transport=outgoing.transport(httpx2.AsyncHTTPTransport(trust_env=False)),
            follow_redirects=False,
            timeout=None,  # The guards' timeout is for the whole call.
            trust_env=False,
        )

    async def ask(self, method: str, path: str, body: Mapping[str, JsonValue] | None = None) -> Reply:
        """Send a request and read the whole response, of at most 64 KiB and a status below 500.

        Raise `RateLimitedError` for a 429, else `ResilienceError`, `httpx2.HTTPError` or `ValueError`.
        """
        return await self._pipeline.call(self._ask, method, path, body)

    async def _ask(self, method: str, path: str, body: Mapping[str, JsonValue] | None) -> Reply:
        key = self._current().db_key
        headers = {"apikey": key.get_secret_value() if key else ""}
        async with self.stream(method, path, json=body, headers=headers) as response:
            read = bytearray()
            async for part in response.aiter_raw():
                read += part
                if len(read) > _MOST_BYTES:
                    raise ValueError(f"longer than {_MOST_BYTES} bytes")
        refusal = refusal_in(response, self.name)
        if response.status_code == _TOO_MANY_REQUESTS:
            raise slow_down((refusal and refusal.retry_after) or 1)
        if refusal is not None:
            raise refusal
        if response.status_code >= _SERVER_ERROR:
            response.raise_for_status()
        return Reply(response.status_code, _members(bytes(read)))


def _members(body: bytes) -> Mapping[str, JsonValue]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, JsonValue]", found) if isinstance(found, dict) else {}


class Jwks:
    """Holds the keys by name, which `fetch` fetches within about 3 seconds."""

    def __init__(self, fetch: Callable[[], Awaitable[Reply]], *, clock: Clock = MONOTONIC) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: Keys = {}
        self._read_at: float | None = None
        self._not_before = 0.0
        # Requested names that the last fetched keys lacked.
        self._unknown: deque[str] = deque(maxlen=_MOST_UNKNOWN)
        self._fetched = anyio.Event()

    @property
    def is_fetching(self) -> bool:
        return not self._fetched.is_set()

    def age(self) -> float | None:
        return None if self._read_at is None else self._clock() - self._read_at

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        self._outside = copy_context()
        async with anyio.create_task_group() as self._tasks:
            self._want(self._clock())
            yield
            self._tasks.cancel_scope.cancel()

    async def key(self, kid: str) -> PyJWK | None:
        """Return a key; None if the project has none of this name; raise if none could be fetched for a day."""
        if len(kid) > _LONGEST_KID:
            return None
        now = self._clock()
        if self._is_good(now) and (kid in self._keys or kid in self._unknown):
            if now >= (self._read_at or 0) + _SOFT_AGE:
                self._want(now)
            return self._keys.get(kid)
        self._want(now)
        await self._fetched.wait()
        if not self._is_good(self._clock()):
            raise RejectedError("jwks", max(1.0, self._not_before - self._clock()))
        if kid not in self._keys and self._read_at is not None and self._read_at >= now:
            self._unknown.append(kid)
        return self._keys.get(kid)

    def _is_good(self, now: float) -> bool:
        return self._read_at is not None and now < self._read_at + _HARD_AGE

    def _want(self, now: float) -> None:
        if now >= self._not_before:
            self._not_before = now + _PAUSE
            self._fetched = anyio.Event()
            # Outside of the request that wants it, whose deadline is not the fetch's.
            _ = self._outside.run(self._tasks.start_soon, self._read, now)

    async def _read(self, began: float) -> None:
        try:
            keys = _keys_in(await self._fetch())
            # An empty set means that the project signs with HS256; it does not revoke known keys.
            if keys or not self._keys or not self._is_good(began):
                self._keys, self._read_at = keys, began
        except Exception as error:  # noqa: BLE001 - on any failure the known keys stay valid
            logging.getLogger(__name__).warning("jwks.failed", extra={"error": type(error).__name__})
        finally:
            self._fetched.set()


def _keys_in(reply: Reply) -> Keys:
    given = reply.said.get("keys")
    if reply.status_code != _OK or not isinstance(given, list) or len(given) > _MOST_KEYS:
        raise ValueError(f"status {reply.status_code}, or not a list of at most {_MOST_KEYS} keys")
    keys = {
        key.key_id: key
        for key in (PyJWKSet(cast("list[JWKDict]", given)).keys if given else ())
        if isinstance(key.key_id, str)
        and key.public_key_use in (None, "sig")  # not a set: the value may be unhashable
        and key.algorithm_name == _ALGORITHMS.get(str(key.key_type))
    }
    if given and not keys:
        raise ValueError("none of the keys is usable")
    return keys
