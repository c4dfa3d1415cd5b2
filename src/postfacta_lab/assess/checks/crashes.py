"""Crash isolation: malformed input, and many callers at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...engine.client import Answer
from ...engine.loops import closed_loop
from ...engine.values import as_dict
from ..bench import Bench
from ..groups import group
from ..model import Verdict

_Request = tuple[str, str, bytes | None]  # method, path, body

_BODIES = (b"", b"{", b"[]", b"null", b'"text"', b"1e999", b"\xff\xfe", b"NaN", b"[" * 5000, b'{"a":' * 500, b"{}" * 3,
           b'{"a":1,"a":2}', b"true", b"-", b'{"\\ud800": 1}')  # fmt: skip
_VALUES: tuple[Any, ...] = (None, "", 0, -1, 10**30, True, [], {}, "x" * 100_000, "\x00", "\ud800", 1.5, float("nan"))  # fmt: skip
_PATHS = ("/%00", "/%ff", "/..%2f..%2fetc/passwd", "//", "/%", "/" + "a" * 3000, "/%e2%82", "/;", "/%0a", "/🙂", "/0x0", "/-1")  # fmt: skip
_QUERIES = ("?", "?a", "?limit=-1", "?limit=99999999999999999999", "?limit=%00", "?a=%ff")
_METHODS = ("PUT", "PATCH", "DELETE", "TRACE", "OPTIONS")
_IN_FULL = 2
_INSIDE = re.compile(
    r"Traceback \(most recent|^\s+at .+:\d+|goroutine \d+|\.(py|go|js|rb|java|php)[:\"' ]+(line )?\d+|SQLSTATE|psycopg|asyncpg\."
    r"|node_modules|site-packages|syntax error at or near",
    re.MULTILINE,
)


@group("CRSH-1", "CRSH-3", needs=("read",))
async def _malformed(bench: Bench) -> Mapping[str, Verdict]:
    answers = [await _send(bench, request) for request in _requests(bench)]
    wrong = sum(answer.status >= 500 or not answer.status for answer in answers)
    shown = next((found[0] for answer in answers if (found := _INSIDE.search(answer.text))), "")
    if not bench.service.is_running:
        crashed = Verdict.scored(0.0, "it died")
    else:
        share = wrong / len(answers)
        score = next(
            (score for most, score in ((0, 1.0), (1 / 32, 0.75), (1 / 8, 0.5)) if share <= most), 0.0
        )
        crashed = Verdict.scored(
            score, f"{wrong} of {len(answers)} malformed requests were answered 5xx or not at all"
        )
    return {
        "CRSH-1": crashed,
        "CRSH-3": Verdict.holds(
            not shown, f"an answer shows {shown.strip()!r}" if shown else "no answer shows the inside"
        ),
    }


def _requests(bench: Bench) -> Iterator[_Request]:
    if bench.spec.write is not None:
        write, whole = bench.writing("assess-malformed")
        yield from ((write.method, write.path, body) for body in _BODIES)
        yield from ((write.method, write.path, body) for body in _broken_fields(as_dict(json.loads(whole))))
    yield from (("GET", path.encode().decode("latin-1"), None) for path in _PATHS)
    yield from (("GET", bench.read_path() + query, None) for query in _QUERIES)
    yield from ((method, bench.read_path(), None) for method in _METHODS)


def _broken_fields(body: dict[str, Any]) -> Iterator[bytes]:
    for number, key in enumerate(list(body)[:4]):
        yield json.dumps({name: value for name, value in body.items() if name != key}).encode()
        for value in _VALUES if number < _IN_FULL else _VALUES[:6]:
            yield json.dumps({**body, key: value}).encode()


async def _send(bench: Bench, request: _Request) -> Answer:
    method, path, body = request
    headers = {"Content-Type": "application/json"} if body is not None else {}
    return await bench.call(path, method, body=body, headers=headers, patience=8)


@group("CRSH-2", needs=("read",))
async def _at_once(bench: Bench) -> Verdict:
    """Let 32 callers write and read."""
    number = 0

    async def ask() -> Answer:
        nonlocal number
        number += 1
        if bench.spec.write is not None and number % 2 and number < 8000:
            return (await bench.write(patience=15)).answer
        return await bench.read(patience=15)

    processes = set(bench.service.leaves())
    flood = await closed_loop(ask, callers=32, seconds=6.0, requests=10_000)
    errors = sum(answer.status >= 500 and answer.status != 503 for _, answer in flood.answers)
    if not bench.service.is_running:
        return Verdict.fails(
            f"it died after {len(flood.answers)} requests of 32 callers: code {bench.service.code}"
        )
    if gone := processes - set(bench.service.leaves()):
        return Verdict.fails(
            f"{len(gone)} of its processes died within {len(flood.answers)} requests of 32 callers"
        )
    return Verdict.holds(
        not errors, f"{errors} of {len(flood.answers)} requests of 32 callers were answered 5xx"
    )
