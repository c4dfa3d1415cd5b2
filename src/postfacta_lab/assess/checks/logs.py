"""Logs and traces: ids are searched for, whatever the format is."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Mapping

from ..bench import Bench
from ..groups import group
from ..model import Verdict

_ID_HEADERS = ("x-request-id", "request-id", "x-correlation-id", "x-amzn-requestid", "x-trace-id")
_DURATION = re.compile(
    r'"?[\w.]*(dur|elapsed|latency|took|time|_ms|ms|seconds)[\w.]*"?\s*[=:]\s*"?\d', re.IGNORECASE
)
_BARE_DURATION = re.compile(r"\d\s?(ms|µs|us|s)\b")
_MANY = 3


@group("LOGS-1", "LOGS-2", "LOGS-3", "LOGS-4", "TRAC-1", "TRAC-2", needs=("read",))
async def _logs(bench: Bench) -> Mapping[str, Verdict]:
    """Send a few requests with known ids and secrets, and search the log and the collector."""
    given, trace, mark = f"assess{secrets.token_hex(8)}", secrets.token_hex(16), secrets.token_hex(6)
    traceparent = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}
    before = len(bench.log())
    answers = [await bench.read() for _ in range(2)]
    taken = await bench.read(headers={"X-Request-ID": given})
    await bench.read(headers=traceparent)
    token, cookie, key = (f"assess{secrets.token_hex(8)}" for _ in range(3))
    path = bench.read_path()
    await bench.call(
        f"{path}{'&' if '?' in path else '?'}access_token={token}",
        headers={"Cookie": f"session={cookie}", "X-Api-Key": key},
    )
    await bench.call(f"/assess{mark}%0d%0aassess-forged-{mark}%20level=error")
    spans = await _spans(bench, trace)
    log = bench.log()[before:]
    ids = [_id_of(answer.headers) for answer in answers]
    return {
        "LOGS-1": _parsed(log),
        "LOGS-2": _request_ids(ids, log, given=given, taken=_id_of(taken.headers)),
        "LOGS-3": _access(log, path),
        "LOGS-4": _kept_clean(log, (token, cookie, key), f"assess-forged-{mark}"),
        "TRAC-1": Verdict.holds(
            trace in log.lower(), f"the trace id {'stands' if trace in log.lower() else 'is not'} in the log"
        ),
        "TRAC-2": spans,
    }


async def _spans(bench: Bench, trace: str) -> Verdict:
    for _ in range(40 if bench.collector.bytes or bench.log() else 10):
        if bench.collector.has(trace):
            return Verdict.scored(1.0, "the collector got spans of the caller's trace")
        await asyncio.sleep(0.1)
    if bench.collector.bytes:
        return Verdict.scored(0.5, "the collector got spans, none of them of the caller's trace")
    return Verdict.scored(0.0, "the collector got no spans")


def _parsed(log: str) -> Verdict:
    lines = [line for line in log.splitlines() if line.strip()]
    if not lines:
        return Verdict.fails("it logged nothing")
    pairs = sum(len(re.findall(r'\b[\w.]+=("[^"]*"|\S+)', line)) >= _MANY for line in lines)
    objects = sum(_is_object(line) for line in lines)
    score = max(objects / len(lines), 0.75 * pairs / len(lines))
    kind = "JSON" if objects >= pairs else "key=value"
    return Verdict.scored(score, f"{max(objects, pairs)} of {len(lines)} lines are {kind}")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _id_of(headers: Mapping[str, str]) -> str:
    return next((headers[name] for name in _ID_HEADERS if name in headers), "")


def _request_ids(ids: list[str], log: str, *, given: str, taken: str) -> Verdict:
    answered = all(ids) and len(set(ids)) == len(ids)
    parts = {
        "an id of its own for each answer": answered,
        "the id in the log": answered and all(identity in log for identity in ids),
        "a given X-Request-ID taken over": taken == given and given in log,
    }
    missing = [name for name, there in parts.items() if not there]
    if not answered:
        return Verdict.scored(0.0, "no id of its own in each answer")
    return Verdict.share(
        len(parts) - len(missing), len(parts), f"missing: {', '.join(missing)}" if missing else "all of it"
    )


def _access(log: str, path: str) -> Verdict:
    plain = path.partition("?")[0]
    names = {plain, plain.rpartition("/")[0]} - {""}
    lines = [
        line
        for line in log.splitlines()
        if "GET" in line and "200" in line and any(name in line for name in names)
    ]
    if not lines:
        return Verdict.fails("no line with method, path and status")
    timed = any(_DURATION.search(line) or _BARE_DURATION.search(line) for line in lines)
    return Verdict.scored(
        1.0 if timed else 0.5,
        f"a line with method, path, status{' and duration' if timed else ', no duration'}",
    )


def _kept_clean(log: str, kept: tuple[str, ...], forged: str) -> Verdict:
    shown = sum(secret in log for secret in kept)
    forgeries = sum(line.lstrip().startswith(forged) for line in log.splitlines())
    found = [
        *([f"{shown} of {len(kept)} secrets stand in the log"] if shown else []),
        *(["a caller could forge a line"] if forgeries else []),
    ]
    return Verdict.holds(not found, "; ".join(found) or "no secret, no forged line")
