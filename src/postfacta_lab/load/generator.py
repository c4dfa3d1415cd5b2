"""Sends requests on a schedule that does not depend on the answers, and keeps what became of each.

A request that finds no idle connection opens one. A client that waited for as long as its patience lasts hangs up.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from secrets import randbelow, token_hex
from urllib.parse import urlsplit

from ..engine.client import encode
from ..engine.link import Link
from .arrivals import Meter, Sample
from .mix import Ask

__all__ = ["Generator", "Target"]

_TICK, _LONGEST_NAP = 0.001, 0.02
_CONNECT = 5.0
_SAFE = {"GET", "HEAD"}


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and what each of them brings."""

    url: str  # with a path before those of the requests, if any
    headers: Mapping[str, str]
    alternating: bool = False  # every other request is the last one on its connection

    def bytes_of(self, ask: Ask) -> bytes:
        """Write a request; a write has a key of its own, and one request of a hundred a trace."""
        parts = urlsplit(self.url)
        headers = {"Host": parts.netloc.rpartition("@")[2], "X-Traffic-Class": "load", **self.headers}
        body = None if ask.method in _SAFE else b""
        if ask.body is not None:
            body = json.dumps(ask.body).encode()
            headers["Content-Type"] = "application/json"
        if ask.method not in _SAFE:
            headers["Idempotency-Key"] = str(uuid.uuid4())
        if self.alternating and randbelow(2):
            headers["Connection"] = "close"
        if not randbelow(100):
            headers["traceparent"] = f"00-{token_hex(16)}-{token_hex(8)}-01"
        return encode(ask.method, parts.path.rstrip("/") + ask.path, headers, body=body)


@dataclass(slots=True, eq=False)
class _Request:
    ask: Ask
    intended: float
    began: float
    link: Link | None = None
    is_over: bool = False


class Generator:
    """Sends to one target, on kept connections; its clock begins when it is made, in a running loop.

    It sends what the meter admits. Patience is in seconds, from when a request was due; `zero` is when the clock began,
    on ``time.perf_counter``.
    """

    def __init__(self, target: Target, meter: Meter, *, patience: float, zero: float | None = None) -> None:
        self._target, self._meter, self._patience = target, meter, patience
        parts = urlsplit(target.url)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._address = parts.hostname or "", parts.port or (443 if self._tls else 80)
        self._idle: list[Link] = []
        self._pending: deque[_Request] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._zero = time.perf_counter() if zero is None else zero

    def now(self) -> float:
        return time.perf_counter() - self._zero

    def waiting(self) -> list[float]:
        """List when those were due that have no answer yet; may be called in another thread."""
        return [request.intended for request in tuple(self._pending) if not request.is_over]

    async def send(self, moments: Iterable[float], asks: Iterable[Ask]) -> None:
        """Send each at its moment, until either has no more; return when the last one was sent."""
        now = self.now()
        for due, ask in zip(moments, asks, strict=False):
            while due > now:
                self._hang_up()
                await asyncio.sleep(min(max(due - self.now(), _TICK), _LONGEST_NAP))
                now = self.now()
            if self._meter.admit(due):
                self._begin(_Request(ask, due, self.now()))

    async def settle(self) -> None:
        """Wait until each has an end; the patience of the last one bounds it."""
        while self._meter.in_flight:
            self._hang_up()
            await asyncio.sleep(_LONGEST_NAP)

    async def close(self) -> None:
        for task in self._opening:
            task.cancel()
        for link in (*self._idle, *(request.link for request in self._pending)):
            if link is not None:
                link.abort()
        await asyncio.sleep(0)  # the loop closes their sockets

    def _begin(self, request: _Request) -> None:
        self._pending.append(request)
        while self._idle:
            link = self._idle.pop()
            if link.is_open:
                self._send(link, request)
                return
        self._open(request)

    def _open(self, request: _Request) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(request))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self, request: _Request) -> None:
        link = Link(self._idle.append, self._forget)
        try:
            async with asyncio.timeout(min(_CONNECT, self._patience)):
                await asyncio.get_running_loop().create_connection(
                    lambda: link, *self._address, ssl=self._tls
                )
        except OSError as error:  # a time-out is one
            self._end(request, type(error).__name__)
        else:
            if request.is_over:
                self._idle.append(link)
            else:
                self._send(link, request)

    def _send(self, link: Link, request: _Request) -> None:
        request.link = link
        used, ask = link.uses, request.ask

        def done(status: int, error: str) -> None:
            if error and used and not link.was_answered and ask.method in _SAFE and not request.is_over:
                self._open(request)  # the server had closed a kept connection: RFC 9110, 9.2.2
                return
            self._end(request, error or ("" if ask.is_good(status) else str(status)))

        link.send(self._target.bytes_of(ask), done, has_body=ask.method != "HEAD")

    def _end(self, request: _Request, error: str) -> None:
        if not request.is_over:
            request.is_over = True
            ask = request.ask
            self._meter.finish(Sample(ask.route, request.intended, request.began, self.now(), error))

    def _forget(self, link: Link) -> None:
        if link in self._idle:
            self._idle.remove(link)

    def _hang_up(self) -> None:
        """Let those go whose clients would be gone, and forget those that have ended."""
        now, pending = self.now(), self._pending
        while pending and (pending[0].is_over or now >= pending[0].intended + self._patience):
            request = pending.popleft()
            if not request.is_over:
                self._end(request, "TimeoutError")
                if request.link is not None:
                    request.link.abort()
