"""The collector of traces takes what a service sends, and no more than it may hold."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc

import pytest

from postfacta_lab.engine.client import Response, ask, encode
from postfacta_lab.engine.http import Collector

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def collected(*bodies: bytes) -> tuple[Collector, list[Response]]:
    """Send bodies that are said to be packed, each on a connection of its own."""
    collector = Collector()
    async with collector.listening():
        answers: list[Response] = []
        for body in bodies:
            request = encode("POST", "/v1/traces", {"Content-Encoding": "gzip"}, body=body)
            answers.append(await ask(collector.port, request, method="POST"))
    return collector, answers


@pytest.mark.parametrize("content", [bytes.fromhex(TRACE), TRACE.upper().encode()])
def test_a_trace_that_was_packed_is_found(content: bytes) -> None:
    collector, (answer,) = asyncio.run(collected(gzip.compress(b"span " + content)))
    assert answer.status == 200
    assert collector.has(TRACE)


def test_what_unpacks_to_a_gigabyte_is_kept_in_part() -> None:
    megabyte = gzip.compress(bytes(2**20))
    tracemalloc.start()
    try:
        collector, (answer, later) = asyncio.run(collected(megabyte * 1024, megabyte))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (answer.status, later.status) == (200, 200)
    assert peak < 2**27
    assert collector.bytes <= 2**25


def test_what_is_not_packed_as_it_says_is_passed_over() -> None:
    packed = gzip.compress(TRACE.encode())
    collector, answers = asyncio.run(collected(b"no gzip", packed[:-9], packed))
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert collector.has(TRACE)
