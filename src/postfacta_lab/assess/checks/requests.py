"""Requests that no one should send.

Without a right to, too large, ambiguous, malformed, all at once.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from ...engine.client import Response, ask, closed_loop, encode
from ...engine.values import Headers, as_dict
from ..bench import Bench
from ..model import CheckResult, group

_JSON = {"Content-Type": "application/json"}
_ORIGIN = "https://assess.example"
_COMMON = frozenset({"type", "title", "status", "detail", "error", "message", "code", "errors"})
_REQUEST_ID = re.compile(r"request_?id|correlation")
_DOCUMENTS = ("/openapi.json", "/swagger.json", "/openapi.yaml", "/v3/api-docs")
_LARGE = 32 * 2**20  # bytes of a body that is too large for any API
_HALF = 16 * 2**20  # an answer before this many of them came in time
_MOST_GROWTH = 16 * 2**20  # bytes of memory: half of the body, so it was not kept whole
_PIECE = 2**16  # bytes that are sent at once
_LOOK_AFTER = 4 * 2**20  # bytes, from one look at the memory of the service to the next
_BODIES = (
    b"",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"1e999",
    b"\xff\xfe",
    b"NaN",
    b"[" * 5000,
    b'{"a":' * 500,
    b"{}" * 3,
    b'{"a":1,"a":2}',
    b"true",
    b"-",
    b'{"\\ud800": 1}',
)
_VALUES: tuple[Any, ...] = (
    None,
    "",
    0,
    -1,
    10**30,
    True,
    [],
    {},
    "x" * 100_000,
    "\x00",
    "\ud800",
    1.5,
    float("nan"),
)
_PATHS = (
    "/%00",
    "/%ff",
    "/..%2f..%2fetc/passwd",
    "//",
    "/%",
    "/" + "a" * 3000,
    "/%e2%82",
    "/;",
    "/%0a",
    "/🙂",
    "/0x0",
    "/-1",
)
_QUERIES = ("?", "?a", "?limit=-1", "?limit=99999999999999999999", "?limit=%00", "?a=%ff")
_METHODS = ("PUT", "PATCH", "DELETE", "TRACE", "OPTIONS")
# Points, and the share of malformed requests that may be answered wrongly for them.
_MALFORMED_SCORES = (
    (0.5, 1 / 8),
    (0.75, 1 / 32),
    (1.0, 0.0),
)
_INSIDE = re.compile(
    r"Traceback \(most recent|^\s+at .+:\d+|goroutine \d+|\.(py|go|js|rb|java|php)[:\"' ]+(line"
    r" )?\d+|SQLSTATE|psycopg|asyncpg\."
    r"|node_modules|site-packages|syntax error at or near",
    re.MULTILINE,
)


@group("SECU-1", needs=("read",))
async def _cors(bench: Bench) -> CheckResult:
    write = bench.writing("assess")[0] if bench.spec.write else None
    preflight = {
        "Origin": _ORIGIN,
        "Access-Control-Request-Method": write.method if write else "GET",
        "Access-Control-Request-Headers": "authorization",
    }
    path = write.path if write else bench.read_path()
    answers = [
        await bench.call(path, "OPTIONS", headers=preflight, auth=False),
        await bench.read(headers={"Origin": _ORIGIN}),
    ]
    allowed: list[str] = []
    for answer in answers:
        origin = answer.headers.get("access-control-allow-origin", "")
        credentials = answer.headers.get("access-control-allow-credentials", "").lower()
        if credentials == "true" and origin in {_ORIGIN, "*", "null"}:
            return CheckResult.fails(f"{origin} is allowed with credentials")
        allowed.append(origin)
    if not {_ORIGIN, "*"}.isdisjoint(allowed):
        score = 1.0 if bench.spec.public else 0.5
        return CheckResult.scored(score, "any origin is allowed, without credentials")
    return CheckResult.passes("a foreign origin is allowed nothing")


@group("SECU-2", needs=("write",))
async def _anonymous(bench: Bench) -> CheckResult:
    answer = (await bench.write(auth=False)).answer
    return CheckResult.holds(
        answer.status in {401, 403}, f"the write without credentials was answered {answer}"
    )


@group("SECU-3", needs=("auth", "write"))
async def _forged(bench: Bench) -> CheckResult:
    """Write with forged credentials: cut, changed, of another algorithm, or none."""
    name, value = bench.spec.auth or ("Authorization", "")
    scheme, _, token = value.rpartition(" ")
    head, *parts = token.split(".")
    unsigned_head = _base64url(b'{"alg": "none", "typ": "JWT"}')
    payload = parts[0] if parts else _base64url(b'{"sub":"admin"}')
    forgeries = (
        "",
        token[:-1],
        token + "x",
        token.swapcase() if token.swapcase() != token else token + "0",
        token[::-1] + "0",
        f"{unsigned_head}.{payload}.",
        f"{head}.{payload}.{'A' * 43}",
        "null",
    )
    accepted = 0
    for forgery in forgeries:
        credentials = {name: f"{scheme} {forgery}".strip()}
        written = await bench.write(headers=credentials, auth=False)
        accepted += written.answer.good
    return CheckResult.holds(
        not accepted, f"{accepted} of {len(forgeries)} forged credentials were accepted"
    )


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@group("SECU-4", needs=("read",))
async def _headers(bench: Bench) -> CheckResult:
    read = await bench.read()
    unknown = await bench.call("/assess-unknown")
    answers = [read.headers, unknown.headers]
    sniff = all(
        headers.get("x-content-type-options", "").lower() == "nosniff" for headers in answers
    )
    shown = any(
        "x-powered-by" in headers or re.search(r"\d", headers.get("server", ""))
        for headers in answers
    )
    return CheckResult.parts({"`nosniff`": sniff, "hidden versions": not shown})


@group("OPER-7", needs=("read",))
async def _errors(bench: Bench) -> CheckResult:
    path = bench.read_path().partition("?")[0]  # other paths may belong to another API, or to pages
    answers = [await bench.call(f"{path}/assess-unknown")]
    answers.append(await bench.call(path, "DELETE"))
    if bench.spec.write:
        write, _ = bench.writing("assess")
        broken = await bench.call(write.path, write.method, body=b"{", headers=_JSON)
        answers.append(broken)
    errors = [answer for answer in answers if answer.status >= 400]
    documents = [as_dict(answer.json) for answer in errors]
    shared = _COMMON.intersection(*documents)
    shaped = bool(errors and shared) and all(map(_has_id, errors))
    described = [path for path in _DOCUMENTS if (await bench.call(path)).good]
    return CheckResult.parts(
        {
            "errors in one JSON shape with a request id": shaped,
            "a document of the API": bool(described),
        }
    )


def _has_id(answer: Response) -> bool:
    if "x-request-id" in answer.headers:
        return True
    text = json.dumps(answer.json).lower()
    return bool(_REQUEST_ID.search(text))


@group("INPT-1", "INPT-2", "INPT-3", needs=("read",))
async def _inputs(bench: Bench) -> Mapping[str, CheckResult]:
    return {
        "INPT-1": await _bodies(bench),
        "INPT-2": await _large_headers(bench),
        "INPT-3": await _smuggled(bench),
    }


async def _large_headers(bench: Bench) -> CheckResult:
    large = {f"X-Assess-{number}": "x" * 4000 for number in range(256)}
    answer = await bench.call(bench.read_path(), headers=large)
    # 494 is what nginx answers; a connection that is closed unanswered is half of it.
    score = 0.0 if answer.status else 0.5
    if answer.status in {400, 413, 431, 494}:
        score = 1.0
    return CheckResult.scored(score, f"1 MiB of headers was answered {answer}")


async def _smuggled(bench: Bench) -> CheckResult:
    """Send requests in which another could be hidden from a proxy; none may be served."""
    requests = _ambiguous(bench)
    served: list[str] = []
    for flaw, data in requests.items():
        answer = await ask(bench.service.port, data, patience=4)
        if answer.good:
            served.append(flaw)
    names = ", ".join(served) or "none"
    evidence = f"of {len(requests)} ambiguous requests were served: {names}"
    return CheckResult.holds(not served, evidence)


async def _bodies(bench: Bench) -> CheckResult:
    if bench.spec.write is None:
        return CheckResult.not_run("the service file names no write")
    ways = {
        "by length": {"Content-Length": str(_LARGE)},
        "in chunks": {"Transfer-Encoding": "chunked"},
    }
    scores: list[float] = []
    evidence: list[str] = []
    for way, headers in ways.items():
        sent, grown, answer = await _large(bench, headers)
        evidence.append(f"{way}: {answer} after {sent // 2**20} MiB")
        is_refused = not answer.good
        if is_refused and sent <= _HALF:
            scores.append(1.0)
        elif answer.status == 413 or (is_refused and grown < _MOST_GROWTH):
            scores.append(0.5)
        else:
            scores.append(0.0)
    return CheckResult.scored(min(scores), "; ".join(evidence))


async def _large(bench: Bench, way: Headers) -> tuple[int, int, Response]:
    """Return how much it took before its answer or end, its growth of memory, and the answer."""
    write, _ = bench.writing("assess-large")
    connection = await bench.connect()
    headers = bench.headers({**_JSON, **way})
    await connection.send(encode(write.method, write.path, headers))
    frame = piece = b'"' + b"x" * (_PIECE - 2) + b'"'
    if chunked := "Transfer-Encoding" in way:
        frame = f"{_PIECE:x}\r\n".encode() + piece + b"\r\n"
    sent = 0
    before = bench.service.memory()
    most = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent, most
        while sent < _LARGE:
            yield frame
            sent += _PIECE
            if sent % _LOOK_AFTER == 0:
                most = max(most, bench.service.memory())
        if chunked:
            yield b"0\r\n\r\n"

    answer = await connection.drip(pieces(), patience=20)
    connection.close()
    return sent, most - before, answer


def _ambiguous(bench: Bench) -> dict[str, bytes]:
    """Return requests whose length two servers could read differently, by what is wrong."""
    write, body = bench.writing("assess-ambiguous")
    method = "GET"
    path = bench.read_path()
    if bench.spec.write:
        method = write.method
        path = write.path
    head = encode(method, path, bench.headers(_JSON))[:-2]
    length = str(len(body)).encode()
    chunks = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    sized = head + b"Content-Length: " + length + b"\r\n"
    return {
        "length and chunks": sized + b"Transfer-Encoding: chunked\r\n\r\n" + chunks,
        "two lengths": sized + b"Content-Length: 1\r\n\r\n" + body,
        "space before the colon": head + b"Content-Length : " + length + b"\r\n\r\n" + body,
        "negative length": head + b"Content-Length: -1\r\n\r\n" + body,
        "length with a plus": head + b"Content-Length: +" + length + b"\r\n\r\n" + body,
        "unknown coding": head + b"Transfer-Encoding: xchunked\r\n\r\n" + chunks,
        "broken chunk": (
            head + b"Transfer-Encoding: chunked\r\n\r\n" + b"zz\r\n" + body + b"\r\n0\r\n\r\n"
        ),
    }


@group("CRSH-1", "CRSH-3", needs=("read",))
async def _malformed(bench: Bench) -> Mapping[str, CheckResult]:
    """Send requests with one flaw each; a 4xx is right, a 5xx or silence is wrong."""
    answers: list[Response] = []
    for method, path, body in _requests(bench):
        headers = {} if body is None else _JSON
        answer = await bench.call(path, method, body=body, headers=headers, patience=8)
        answers.append(answer)
    wrong = sum(answer.status >= 500 or not answer.status for answer in answers)
    share = wrong / len(answers)
    score = 0.0
    for points, most_wrong in _MALFORMED_SCORES:
        if share <= most_wrong:
            score = points
    evidence = f"{wrong} of {len(answers)} malformed requests were answered 5xx or not at all"
    survived = CheckResult.fails("it died")
    if bench.service.is_running:
        survived = CheckResult.scored(score, evidence)
    shown = _of_the_inside(answers)
    return {
        "CRSH-1": survived,
        "CRSH-3": CheckResult.holds(not shown, f"answers show of the inside: {shown or 'nothing'}"),
    }


def _of_the_inside(answers: list[Response]) -> str:
    """Return the first text of a stack trace or a driver in the answers; empty if none has one."""
    for answer in answers:
        if match := _INSIDE.search(answer.text):
            return match[0].strip()
    return ""


def _requests(bench: Bench) -> Iterator[tuple[str, str, bytes | None]]:
    """Yield the method, the path and the body of each malformed request."""
    if bench.spec.write is not None:
        write, document = bench.writing("assess-malformed")
        fields = as_dict(json.loads(document))
        for body in (*_BODIES, *_broken_fields(fields)):
            yield write.method, write.path, body
    for path in _PATHS:
        yield "GET", path.encode().decode("latin-1"), None
    read_path = bench.read_path()
    for query in _QUERIES:
        yield "GET", read_path + query, None
    for method in _METHODS:
        yield method, read_path, None


def _broken_fields(body: dict[str, Any]) -> Iterator[bytes]:
    """Yield the body without each of its first fields, and with a wrong value in it."""
    for number, key in enumerate(list(body)[:4]):
        without = dict(body)
        del without[key]
        yield json.dumps(without).encode()
        values = _VALUES if number < 2 else _VALUES[:6]
        for value in values:
            yield json.dumps({**body, key: value}).encode()


@group("CRSH-2", needs=("read",))
async def _at_once(bench: Bench) -> CheckResult:
    numbers = count(1)

    async def send() -> Response:
        number = next(numbers)
        if bench.spec.write is not None and number % 2 and number < 8000:
            return (await bench.write(patience=15)).answer
        return await bench.read(patience=15)

    before = set(bench.service.leaves())
    flood = await closed_loop(send, callers=32, seconds=6.0, requests=10_000)
    of = f"{len(flood.answers)} requests of 32 callers"
    errors = sum(answer.status >= 500 and answer.status != 503 for _, answer in flood.answers)
    if not bench.service.is_running:
        return CheckResult.fails(f"it died after {of}: code {bench.service.code}")
    if gone := before.difference(bench.service.leaves()):
        return CheckResult.fails(f"{len(gone)} of its processes died within {of}")
    return CheckResult.holds(not errors, f"{errors} of {of} were answered 5xx")
