"""Logs, traces, metrics.

Ids are searched for, requests are counted, whatever the format or the name is.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Callable, Mapping

from ...engine.values import Headers, Series, growth
from ..bench import Bench
from ..model import CheckResult, group

_ID_HEADERS = ("x-request-id", "request-id", "x-correlation-id", "x-amzn-requestid", "x-trace-id")
_DURATION = re.compile(
    r'"?[\w.]*(dur|elapsed|latency|took|time|_ms|ms|seconds)[\w.]*"?\s*[=:]\s*"?\d', re.IGNORECASE
)
_BARE_DURATION = re.compile(r"\d\s?(ms|µs|us|s)\b")
_PAIR = re.compile(r'\b[\w.]+=("[^"]*"|\S+)')
# Counts that no series goes up by otherwise, of reads and of requests for an unknown path.
_SENT = 23
_MISSED = 11
_NO_GAUGES = ("_total", "_count", "_sum", "_bucket", "_created")
_POOL_WORDS = ("pool", "connection", "sql", "checkedout")
_Scrape = Mapping[Series, float]


@group("LOGS-1", "LOGS-2", "LOGS-3", "LOGS-4", "TRAC-1", "TRAC-2", needs=("read",))
async def _logs(bench: Bench) -> Mapping[str, CheckResult]:
    """Send marked requests, and search the log and the collector for their marks."""
    request_id = f"assess{secrets.token_hex(8)}"
    trace = secrets.token_hex(16)
    mark = secrets.token_hex(6)
    before = len(bench.log())
    answers = [await bench.read() for _ in range(2)]
    taken = await bench.read(headers={"X-Request-ID": request_id})
    span = secrets.token_hex(8)
    await bench.read(headers={"traceparent": f"00-{trace}-{span}-01"})
    credentials = await _send_credentials(bench)
    await bench.call(f"/assess{mark}%0d%0aassess-forged-{mark}%20level=error")
    spans = await _spans(bench, trace)
    log = bench.log()[before:]
    ids = [_id_of(answer.headers) for answer in answers]
    path, _, _ = bench.read_path().partition("?")
    is_taken = _id_of(taken.headers) == request_id and request_id in log
    is_traced = trace in log.lower()
    stands = "stands" if is_traced else "is not"
    return {
        "LOGS-1": _parsed(log),
        "LOGS-2": _request_ids(ids, log, taken=is_taken),
        "LOGS-3": _access(log, path),
        "LOGS-4": _kept_clean(log, credentials, f"assess-forged-{mark}"),
        "TRAC-1": CheckResult.holds(is_traced, f"the trace id {stands} in the log"),
        "TRAC-2": spans,
    }


async def _send_credentials(bench: Bench) -> list[str]:
    """Read with secrets in the query, in a cookie and in a header; return them."""
    token, cookie, key = (f"assess{secrets.token_hex(8)}" for _ in range(3))
    path = bench.read_path()
    joint = "&" if "?" in path else "?"
    headers = {"Cookie": f"session={cookie}", "X-Api-Key": key}
    await bench.call(f"{path}{joint}access_token={token}", headers=headers)
    return [token, cookie, key]


async def _spans(bench: Bench, trace: str) -> CheckResult:
    looks = 40 if bench.collector.bytes or bench.log() else 10
    for _ in range(looks):
        if bench.collector.has(trace):
            return CheckResult.passes("the collector got spans that name the caller's trace")
        await asyncio.sleep(0.1)
    if bench.collector.bytes:
        evidence = "the collector got spans, none of which names the caller's trace"
        return CheckResult.scored(0.5, evidence)
    return CheckResult.fails("the collector got no spans")


def _parsed(log: str) -> CheckResult:
    lines = [line for line in log.splitlines() if line.strip()]
    if not lines:
        return CheckResult.fails("it logged nothing")
    pairs = sum(len(_PAIR.findall(line)) >= 3 for line in lines)
    objects = sum(map(_is_object, lines))
    form = "JSON" if objects >= pairs else "key=value"
    total = len(lines)
    evidence = f"{max(objects, pairs)} of {total} lines are {form}"
    score = max(objects, 0.75 * pairs) / total
    return CheckResult.scored(score, evidence)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _id_of(headers: Headers) -> str:
    for name in _ID_HEADERS:
        if name in headers:
            return headers[name]
    return ""


def _request_ids(ids: list[str], log: str, *, taken: bool) -> CheckResult:
    has_own = all(ids) and len(set(ids)) == len(ids)
    are_logged = all(identity in log for identity in ids)
    parts = {
        "an id for each answer": has_own,
        "it in the log": has_own and are_logged,
        "a given X-Request-ID taken over": has_own and taken,
    }
    return CheckResult.parts(parts)


def _access(log: str, path: str) -> CheckResult:
    names = {path, path.rpartition("/")[0]} - {""}
    has_line = False
    for line in log.splitlines():
        names_path = any(name in line for name in names)
        if "GET" not in line or "200" not in line or not names_path:
            continue
        has_line = True
        if _DURATION.search(line) or _BARE_DURATION.search(line):
            return CheckResult.passes("a line with method, path, status and duration")
    if has_line:
        return CheckResult.scored(0.5, "a line with method, path, status, no duration")
    return CheckResult.fails("no line with method, path and status")


def _kept_clean(log: str, credentials: list[str], forged: str) -> CheckResult:
    shown = sum(secret in log for secret in credentials)
    if shown:
        return CheckResult.fails(f"{shown} of {len(credentials)} secrets stand in the log")
    for line in log.splitlines():
        if line.lstrip().startswith(forged):
            return CheckResult.fails("a caller could forge a line")
    return CheckResult.passes("no secret, no forged line")


@group("METR-1", "METR-2", "METR-3", "METR-4", "METR-5", needs=("read", "metrics"))
async def _metrics(bench: Bench) -> Mapping[str, CheckResult]:
    """Count requests, and search for the series that went up by as many."""
    await bench.read()
    before = await bench.scrape()
    for _ in range(_SENT):
        await bench.read()
    after = await bench.scrape()
    for _ in range(_MISSED):
        await bench.call("/assess-unknown")
    missed = await bench.scrape()
    counted = [series for series, by in growth(before, after) if by == _SENT]
    errors = [series for series, by in growth(after, missed) if by == _MISSED]
    buckets = {series.name for series in after if series.name.endswith("_bucket")}

    def has_buckets(series: Series) -> bool:
        return series.name.removesuffix("count") + "bucket" in buckets

    def says_missing(series: Series) -> bool:
        return series.says("404") or series.says("4xx")

    return {
        "METR-1": _counted(bench, counted),
        "METR-2": _any_series(counted, has_buckets, "of buckets"),
        "METR-3": _any_series(errors, says_missing, "with a label that says 404"),
        "METR-4": await _cardinality(bench, missed),
        "METR-5": await _saturation(bench),
    }


def _any_series(counted: list[Series], fits: Callable[[Series], bool], quality: str) -> CheckResult:
    names = [series.name for series in counted if fits(series)]
    name = names[0] if names else "no series"
    return CheckResult.holds(bool(names), f"{name} {quality} went up by the number of requests")


def _counted(bench: Bench, counted: list[Series]) -> CheckResult:
    if not counted:
        return CheckResult.fails(f"no series went up by {_SENT} with {_SENT} requests")
    template, _, _ = bench.reading.path.partition("?")
    path = template.partition("{")[0].rstrip("/")
    best = min(counted, key=lambda series: len(_unsaid(series, path)))
    missing = _unsaid(best, path)
    evidence = f"{best.name} went up by exactly {_SENT}"
    if missing:
        labels = " and ".join(missing)
        evidence += f", without {labels}"
    scores = (1.0, 0.75, 0.5, 0.0)
    return CheckResult.scored(scores[len(missing)], evidence)


def _unsaid(series: Series, path: str) -> list[str]:
    """Name what no label says; a route is the template of the read, not its raw path with an id."""
    routes: list[str] = []
    for _, value in series.labels:
        if "/" in value and "assess-" not in value:
            fixed, *_ = re.split("[{:<]", value)
            routes.append(fixed.rstrip("/"))
    labelled = {
        "method": series.says("GET"),
        "status": series.says("200") or series.says("2xx"),
        "route": any(route.endswith(path) for route in routes),
    }
    return [name for name, is_there in labelled.items() if not is_there]


async def _cardinality(bench: Bench, before: _Scrape) -> CheckResult:
    for number in range(120):
        await bench.call(f"/assess-{number:x}-{number * 7919:x}")
    for number in range(20):
        await bench.call(bench.read_path(), f"ASSESS{chr(65 + number)}")
    after = await bench.scrape()
    new = len(after.keys() - before.keys())
    evidence = f"120 unknown paths and 20 unknown methods made {new} new series"
    return CheckResult.within(new, evidence, full=20, half=60)


async def _counts_held(bench: Bench, idle: _Scrape) -> bool:
    """Hold requests, and search for a gauge that shows how many."""
    requests = [await bench.hold() for _ in range(3)]
    await asyncio.sleep(0.4)
    held = await bench.scrape()
    grown = [series.name for series, by in growth(idle, held) if by == len(requests)]
    for request in requests:
        await request.finish(5)
    return not all(name.endswith(_NO_GAUGES) for name in grown)


async def _saturation(bench: Bench) -> CheckResult:
    idle = await bench.scrape()
    gauge = await _counts_held(bench, idle) if bench.spec.write else False
    names = " ".join(series.name.lower() for series in idle)
    shows_memory = "memory" in names or "resident" in names
    parts = {
        "requests in flight": gauge,
        "memory and processor": shows_memory and "cpu" in names,
        "the pool": any(word in names for word in _POOL_WORDS),
    }
    if bench.spec.has_no_database or (bench.durable is False and bench.spec.database is None):
        del parts["the pool"]
    return CheckResult.parts(parts)
