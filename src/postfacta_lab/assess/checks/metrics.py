"""Metrics, believed by difference: a known number of requests, the same growth, whatever the names are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ...engine.values import Series, growth
from ..bench import Bench
from ..groups import group
from ..model import Verdict

_SENT, _MISSED = 23, 11
_FEW, _MANY = 20, 60


@group("METR-1", "METR-2", "METR-3", "METR-4", "METR-5", needs=("read", "metrics"))
async def _metrics(bench: Bench) -> Mapping[str, Verdict]:
    """Send known numbers of requests, and compare scrapes."""
    await bench.read()
    before = await bench.scrape()
    for _ in range(_SENT):
        await bench.read()
    after = await bench.scrape()
    for _ in range(_MISSED):
        await bench.call("/assess-unknown")
    missed = await bench.scrape()
    return {
        "METR-1": _counted(bench, before, after),
        "METR-2": _histogram(before, after),
        "METR-3": _errors(after, missed),
        "METR-4": await _cardinality(bench, missed),
        "METR-5": await _saturation(bench),
    }


def _exact(before: Mapping[Series, float], after: Mapping[Series, float], number: int) -> list[Series]:
    return [series for series, by in growth(before, after) if by == number]


def _counted(bench: Bench, before: Mapping[Series, float], after: Mapping[Series, float]) -> Verdict:
    exact = _exact(before, after, _SENT)
    if not exact:
        return Verdict.fails(f"no series went up by {_SENT} with {_SENT} requests")
    path = bench.reading.path.partition("{")[0].partition("?")[0].rstrip("/") or "/"
    best, said = max(
        (
            (series, (series.says("GET"), series.says("200") or series.says("2xx"), _has_route(series, path)))
            for series in exact
        ),
        key=lambda entry: sum(entry[1]),
    )
    missing = [name for name, there in zip(("method", "status", "route"), said, strict=True) if not there]
    evidence = f"{best.name} went up by exactly {_SENT}" + (
        f", without {' and '.join(missing)}" if missing else ""
    )
    return Verdict.scored((1.0, 0.75, 0.5, 0.0)[len(missing)], evidence)


def _has_route(series: Series, path: str) -> bool:
    """Whether a label holds the template of the read, not its raw path with an id."""
    return any(value.partition("{")[0].partition(":")[0].partition("<")[0].rstrip("/").endswith(path.rstrip("/"))
               and "assess-" not in value and "/" in value for _, value in series.labels)  # fmt: skip


def _histogram(before: Mapping[Series, float], after: Mapping[Series, float]) -> Verdict:
    bases = {series.name.removesuffix("_bucket") for series in after if series.name.endswith("_bucket")}
    for series in _exact(before, after, _SENT):
        if series.name.endswith("_count") and series.name.removesuffix("_count") in bases:
            return Verdict.passes(f"{series.name} went up by exactly {_SENT}, with buckets")
    return Verdict.fails(f"no histogram's count went up by {_SENT}")


def _errors(before: Mapping[Series, float], after: Mapping[Series, float]) -> Verdict:
    for series in _exact(before, after, _MISSED):
        if series.says("404") or series.says("4xx"):
            return Verdict.passes(f"{series.name} went up by exactly {_MISSED} with a label that says 404")
    return Verdict.fails(f"no series that says 404 went up by {_MISSED}")


async def _cardinality(bench: Bench, before: Mapping[Series, float]) -> Verdict:
    for number in range(120):
        await bench.call(f"/assess-{number:x}-{number * 7919:x}")
    for number in range(20):
        await bench.call(bench.read_path(), f"ASSESS{chr(65 + number)}")
    after = await bench.scrape()
    new = len(after.keys() - before.keys())
    score = 1.0 if new <= _FEW else 0.5 if new <= _MANY else 0.0
    return Verdict.scored(
        score, f"120 unknown paths and 20 unknown methods made {new} new series", series=new
    )


async def _saturation(bench: Bench) -> Verdict:
    idle = await bench.scrape()
    held = [await bench.hold() for _ in range(3)] if bench.spec.write else []
    gauge = ""
    if held:
        await asyncio.sleep(0.4)
        busy = await bench.scrape()
        gauge = next(
            (series.name for series, by in growth(idle, busy) if by == len(held) and _is_gauge(series)), ""
        )
    for request in held:
        await request.finish(5)
    names = " ".join(series.name.lower() for series in idle)
    parts = {
        "requests in flight": bool(gauge),
        "memory and processor": ("memory" in names or "resident" in names) and "cpu" in names,
        "the pool": any(word in names for word in ("pool", "connection", "sql", "checkedout")),
    }
    if bench.durable is False and bench.spec.database is None:
        del parts["the pool"]
    good = sum(parts.values())
    missing = [name for name, there in parts.items() if not there]
    return Verdict.share(
        good, len(parts), f"not seen: {', '.join(missing)}" if missing else f"seen: {', '.join(parts)}"
    )


def _is_gauge(series: Series) -> bool:
    return not series.name.endswith(("_total", "_count", "_sum", "_bucket", "_created"))
