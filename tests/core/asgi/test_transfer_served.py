"""Behind a real server, a body in chunks that is too large gets its refusal and nothing else."""

from __future__ import annotations

import http.client
import logging
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from postfacta_core.asgi import HardenOptions, harden
from postfacta_core.deadlines._limits import TransferLimits
from tests.kit.behind import behind_uvicorn

SERVERS = ("uvicorn.error", "asyncio")
POLICY = HardenOptions(limits=TransferLimits(max_body_bytes=100_000))


async def read(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


def starlette() -> Starlette:
    return Starlette(routes=[Route("/read", read, methods=["POST"])])


def fastapi() -> FastAPI:
    api = FastAPI()
    api.post("/read")(read)
    return api


def chunks(number: int) -> Iterator[bytes]:
    for _ in range(number):
        yield b"x" * 10_000


def ask(connection: http.client.HTTPConnection, number: int) -> tuple[int, bytes]:
    headers = {"transfer-encoding": "chunked"}
    connection.request("POST", "/read", chunks(number), encode_chunked=True, headers=headers)
    response = connection.getresponse()
    return response.status, response.read()


@pytest.mark.parametrize("framework", [starlette, fastapi])
@pytest.mark.parametrize("flavour", ["h11", "httptools"])
def test_behind_a_real_server_a_chunked_body_gets_its_413_and_nothing_else(
    caplog: pytest.LogCaptureFixture, flavour: str, framework: Callable[[], Starlette]
) -> None:
    app = harden(framework(), service="test", options=POLICY)
    loggers = [logging.getLogger(name) for name in SERVERS]
    with behind_uvicorn(app, http=flavour, log_config=None, log_level="info") as url:
        for logger in loggers:
            logger.addHandler(caplog.handler)
        address = url.removeprefix("http://")
        with closing(http.client.HTTPConnection(address, timeout=30)) as connection:
            assert ask(connection, 5) == (200, b"50000")
            # What follows an answer would be taken for the next one.
            assert ask(connection, 6) == (200, b"60000")
            status, body = ask(connection, 30)
            assert (status, b"too-large" in body) == (413, True)
            assert ask(connection, 7) == (200, b"70000")
    for logger in loggers:
        logger.removeHandler(caplog.handler)
    assert "Finished server process" in caplog.text
    complaints = [
        record
        for record in caplog.records
        if record.name in SERVERS and record.levelno > logging.INFO
    ]
    assert complaints == []
