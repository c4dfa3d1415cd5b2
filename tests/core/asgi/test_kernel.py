"""What all of `harden` adds to a request is counted exactly, in frames and bytecodes.

It may only become less.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable
from functools import partial

import pytest

from postfacta_core.asgi import HardenOptions, harden
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.logs import LineWriter
from postfacta_core.telemetry.logs import JsonFormatter
from tests.kit.bytecodes import Cost, bytecodes_of, refusal
from tests.kit.every import every

HEADERS = [
    (b"host", b"127.0.0.1:8080"),
    (b"user-agent", b"bench/1"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
    (b"x-request-id", b"bench-0123456789"),
    (b"cache-control", b"no-cache"),
    (b"accept-language", b"en"),
]


def scope_of(method: str, *headers: tuple[bytes, bytes]) -> Scope:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": "/items/17",
        "root_path": "",
        "headers": [*HEADERS, *headers],
        "client": ("127.0.0.1", 50000),
    }


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Read what there is, and answer with two messages."""
    if scope["method"] == "POST":
        await receive()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


async def _receive() -> Message:
    return {"type": "http.request", "body": b"x" * 1024, "more_body": False}


async def _send(message: Message) -> None:
    """Take it."""


def _do_nothing(writer: LineWriter) -> None:
    """Leave the lines where they are."""


async def _serve(app: ASGIApp, scope: Callable[[], Scope]) -> None:
    await app(scope(), _receive, _send)


async def added_by_harden(scope: Callable[[], Scope], options: HardenOptions) -> tuple[int, int]:
    """Return how many frames and bytecodes `harden` adds, once everything is known that is found out only once."""
    # A clock in C, which counts no bytecodes, and in which no window of the limiter ends on a busy
    # machine.
    clock = itertools.count(1000.0, 1e-6).__next__
    hardened = harden(answer, service="billing", options=options, clock=clock)
    # As if its lifespan ran, and requests cost next to nothing on any machine.
    hardened.running.loop = asyncio.get_running_loop()
    found: list[tuple[int, int]] = []
    apps: list[ASGIApp] = [answer, hardened]
    for app in apps:
        for _ in range(20):
            await app(scope(), _receive, _send)
        each: list[Cost] = []
        # The least of several: one of them may begin a new second.
        for _ in range(5):
            hardened.shedding.is_cheap = True
            each.append(await bytecodes_of(partial(_serve, app, scope)))
        found.append((min(frames for frames, _ in each), min(bytecodes for _, bytecodes in each)))
    return found[1][0] - found[0][0], found[1][1] - found[0][1]


RATES = ["1000000/minute per client", "1000000/minute per global"]


@pytest.mark.parametrize(
    ("method", "options", "most_frames", "most_bytecodes"),
    [
        ("GET", HardenOptions(access_lines=None), 30, 1810),
        ("POST", HardenOptions(access_lines=None, rate_limits=RATES), 40, 2410),
    ],
)
async def test_a_request_costs_no_more_than_it_did(
    method: str,
    options: HardenOptions,
    most_frames: int,
    most_bytecodes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Its thread would take the lines away at its own pace.
    monkeypatch.setattr(LineWriter, "_run", _do_nothing)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    handler = LineWriter(os.open(os.devnull, os.O_WRONLY))
    handler.setFormatter(JsonFormatter({"service": "billing"}))
    root.handlers[:], root.level = [handler], logging.INFO
    try:
        length = [(b"content-length", b"1024")] if method == "POST" else []
        frames, bytecodes = await added_by_harden(lambda: scope_of(method, *length), options)
    finally:
        root.handlers[:], root.level = before
    assert frames <= most_frames
    assert refusal(bytecodes, most_bytecodes) == ""
    assert frames >= 0.8 * most_frames


def download(pieces: int) -> ASGIApp:
    """Send this many pieces of 16 KiB."""
    piece = {"type": "http.response.body", "body": b"x" * 16_384, "more_body": True}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(pieces):
            await send(piece)
        await send({"type": "http.response.body", "body": b""})

    return app


async def test_a_piece_of_a_download_costs_no_more_than_it_did(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "postfacta")
    least: list[Cost] = []
    for pieces in (10, 110):
        clock = itertools.count(1000.0, 1e-6).__next__
        options = HardenOptions(access_lines=None)
        app = harden(download(pieces), service="billing", options=options, clock=clock)
        app.running.loop = asyncio.get_running_loop()
        serve = partial(_serve, app, partial(scope_of, "GET"))
        for _ in range(3):
            await serve()
        least.append(min([await bytecodes_of(serve) for _ in range(3)]))
    few, many = least
    # One frame and 14 bytecodes are the server's `send` and the application's loop.
    assert (many.frames - few.frames) / 100 <= 5
    assert refusal((many.bytecodes - few.bytecodes) // 100, 165) == ""


# The whole cost of what is refused, without its line: the options, the headers, the most bytecodes.
REFUSED: dict[str, tuple[HardenOptions, list[tuple[bytes, bytes]], int]] = {
    "429": (HardenOptions(rate_limits=["1/hour per client"]), [], 1875),
    "504": (HardenOptions(), [(b"x-request-timeout", b"0")], 1960),
    "431": (HardenOptions(), [(b"cookie", b"x" * 40_000)], 1335),
    "413": (HardenOptions(), [(b"content-length", b"9999999999")], 2315),
}


async def test_a_refusal_costs_no_more_than_it_did(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "postfacta")
    with every() as case:
        for status, (options, headers, most) in REFUSED.items():
            with case(status):
                clock = itertools.count(1000.0, 1e-6).__next__
                app = harden(answer, service="billing", options=options, clock=clock)
                app.running.loop = asyncio.get_running_loop()
                scope = partial(scope_of, "GET", *headers)
                for _ in range(30):
                    await _serve(app, scope)
                costs = [await bytecodes_of(partial(_serve, app, scope)) for _ in range(5)]
                assert refusal(min(cost.bytecodes for cost in costs), most) == ""
