"""Input: what is too large, and what can be read in two ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...engine.client import Answer, Outcome, ask, encode
from ..bench import Bench
from ..groups import group
from ..model import Verdict

_LARGE, _HALF, _PIECE = 32 * 2**20, 16 * 2**20, 2**16
_REFUSALS = frozenset({400, 413, 431, 494})
_MODEST = 16 * 2**20


@group("INPT-1", "INPT-2", "INPT-3", needs=("read",))
async def _inputs(bench: Bench) -> Mapping[str, Verdict]:
    """Send 32 MiB, 1 MiB of headers, and requests that can be read in two ways."""
    return {
        "INPT-1": await _bodies(bench),
        "INPT-2": await _headers(bench),
        "INPT-3": await _ambiguous(bench),
    }


async def _bodies(bench: Bench) -> Verdict:
    if bench.spec.write is None:
        return Verdict.not_run("no [write] in the service file")
    ends = [await _large(bench, chunked=chunked) for chunked in (False, True)]
    said = [
        f"{way}: {answer} after {sent // 2**20} MiB"
        for way, (sent, _, answer) in zip(("by length", "in chunks"), ends, strict=True)
    ]
    return Verdict.scored(min(_bounded(*end) for end in ends), "; ".join(said))


def _bounded(sent: int, grown: int, answer: Answer) -> float:
    if sent <= _HALF and not answer.good:
        return 1.0
    return 0.5 if answer.status == 413 or (not answer.good and grown < _MODEST) else 0.0


async def _large(bench: Bench, *, chunked: bool) -> tuple[int, int, Answer]:
    """Return how much it took before it answered or closed, by how much its memory grew meanwhile, and the answer."""
    write, _ = bench.writing("assess-large")
    way = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(_LARGE)}
    try:
        connection = await bench.connect()
    except OSError:
        return 0, 0, Answer(broken=Outcome.REFUSED)
    await connection.send(
        encode(write.method, write.path, bench.headers({"Content-Type": "application/json", **way}))
    )
    piece = b'"' + b"x" * (_PIECE - 2) + b'"'
    frame = f"{_PIECE:x}\r\n".encode() + piece + b"\r\n" if chunked else piece
    sent, before, most = 0, bench.service.memory(), 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent, most
        while sent < _LARGE:
            yield frame
            sent += _PIECE
            if sent % (4 * 2**20) == 0:
                most = max(most, bench.service.memory())
        if chunked:
            yield b"0\r\n\r\n"

    answer = await connection.drip(pieces(), patience=20, method=write.method)
    connection.close()
    return sent, most - before, answer


async def _headers(bench: Bench) -> Verdict:
    lines = {f"X-Assess-{number}": "x" * 4000 for number in range(256)}
    answer = await bench.call(bench.read_path(), headers=lines)
    score = 1.0 if answer.status in _REFUSALS else 0.0 if answer.status else 0.5
    return Verdict.scored(score, f"1 MiB of headers was answered {answer}")


async def _ambiguous(bench: Bench) -> Verdict:
    port, requests = bench.service.port, _smuggled(bench).items()
    served = [name for name, data in requests if (await ask(port, data, patience=4)).good]
    return Verdict.holds(
        not served, f"served: {', '.join(served)}" if served else "7 ambiguous requests, none was served"
    )


def _smuggled(bench: Bench) -> dict[str, bytes]:
    write, body = bench.writing("assess-ambiguous")
    reads = bench.spec.write is None
    method, path = ("GET", bench.read_path()) if reads else (write.method, write.path)
    length, headers = str(len(body)).encode(), bench.headers({"Content-Type": "application/json"})
    head = encode(method, path, headers)[:-2]
    sized = head + b"Content-Length: " + length + b"\r\n"
    chunks = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    return {
        "length and chunks": sized + b"Transfer-Encoding: chunked\r\n\r\n" + chunks,
        "two lengths": sized + b"Content-Length: 1\r\n\r\n" + body,
        "space before the colon": head + b"Content-Length : " + length + b"\r\n\r\n" + body,
        "negative length": head + b"Content-Length: -1\r\n\r\n" + body,
        "length with a plus": head + b"Content-Length: +" + length + b"\r\n\r\n" + body,
        "unknown coding": head + b"Transfer-Encoding: xchunked\r\n\r\n" + chunks,
        "broken chunk": head + b"Transfer-Encoding: chunked\r\n\r\n" + b"zz\r\n" + body + b"\r\n0\r\n\r\n",
    }
