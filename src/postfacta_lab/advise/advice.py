"""Advise numbers by what was measured: each with its figure, or why there is none.

1. A percentile needs n * (1 - share) >= 5 values: below, the normal approximation of its rank, and
   any statement on how far off it is, does not hold. `Hedge(delay="p95")` has the same rule.
2. Of a histogram, a percentile is the upper bound of its bucket: at least what it really is, and so
   never a time-out that cuts more than its share. Above the last bound nothing is known.
3. Time-outs are the 99.9th percentile: of a thousand requests that would succeed, one is cut. "An
   acceptable rate of false timeouts (such as 0.1%)", Brooker, "Timeouts, retries and backoff with
   jitter", Amazon Builders' Library. What a present time-out cuts has no duration: beyond that rate
   the percentile is not known.
4. A hedge starts at the 95th percentile: Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013.
5. A pool is as large as what is busy on average (Little), at 65 % of use.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..capacity.command import pool_for
from .figures import Points, histograms

__all__ = ["NAMES", "Advice", "advise_by_report", "advise_by_scrape", "as_toml", "seconds_between"]

_LEAST_BEYOND = 5  # see 1
_TIMED_OUT = 0.999  # see 3
_HEDGED = 0.95  # see 4
_SLOW = 0.99  # a circuit opens once all calls of its window are slower than 1 in 100 was
_CUT = "504"
# Below this a time-out cuts the pauses of the process itself, such as a collection of garbage.
_SHORTEST = 1.0
_LEAST_LOANS = 100

_DURATIONS = "http_server_request_duration_seconds"
_REQUESTS = "http_server_requests_total"
_CALLS = "http_client_request_duration_seconds"
_LOANS = "db_client_connection_use_time_seconds"
_POOL = "db_client_connection_pool_name"
_MOST = "db_client_connection_max"
_RATES = "postfacta_ratelimit_decisions_total"
_STARTED = "process_start_time_seconds"
_LATEST = "http_last_request_received_time"
_BREAKERS = "postfacta_breaker_state"
_HEDGES = "postfacta_hedge_attempts_total"
NAMES = (
    *(_DURATIONS, _REQUESTS, _CALLS, _LOANS, _MOST),
    *(_RATES, _STARTED, _LATEST, _BREAKERS, _HEDGES),
)
"""The series that advice rests on."""

_ANSWERED = ("2xx", "3xx", "4xx")
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_ROUTE = re.compile(r"(GET|POST|PUT|PATCH|DELETE) /[^\s?#]*")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


class Advice(NamedTuple):
    """A number for an owner, such as the route `GET /export`; None for none, and why.

    Attributes:
        table: Where the file of numbers has it; empty if that cannot hold it.
    """

    owner: str
    number: str
    value: float | None
    why: str
    table: tuple[str, ...] = ()


def advise_by_scrape(points: Points, seconds: float, guards: Mapping[str, str]) -> Iterator[Advice]:
    """Yield advice by a scrape.

    Args:
        points: Of `NAMES`.
        seconds: For how long they were counted; 0 if that is not known.
        guards: The address of the dependency of guards, by their names, such as `billing:8080`.
    """
    yield from _timeouts(points)
    yield from _calls(points, guards)
    yield from _pools(points, seconds)
    yield from _rates(points)


def seconds_between(points: Points, before: Points | None) -> float:
    """Return for how long a scrape counted, from the start of its process or an earlier scrape."""
    ends = [value for point, value in points.items() if point.name == _LATEST]
    if before is None:
        starts = [value for point, value in points.items() if point.name == _STARTED]
        start = min(starts, default=math.inf)
    else:
        former_ends = [value for point, value in before.items() if point.name == _LATEST]
        start = max(former_ends, default=math.inf)
    return max(max(ends, default=0.0) - start, 0.0)


def _timeouts(points: Points) -> Iterator[Advice]:
    by = ("http_request_method", "http_route")
    answered = histograms(points, _DURATIONS, by=by, admit=_is_answered)
    cuts: dict[tuple[str, ...], float] = {}
    for point, count in points.items():
        labels = dict(point.labels)
        if point.name == _REQUESTS and labels.get("http_response_status_code") == _CUT:
            key = tuple(labels.get(label, "") for label in by)
            cuts[key] = cuts.get(key, 0.0) + count
    for key, histogram in answered.items():
        method, route = key
        if method in _METHODS and route.startswith("/"):
            measured = histogram.percentile(_TIMED_OUT)
            cut = cuts.get(key, 0.0)
            yield _timeout(f"{method} {route}", measured, count=histogram.count, cut=cut)


def _is_answered(labels: Mapping[str, str]) -> bool:
    return labels.get("outcome") in _ANSWERED and labels.get("traffic") != "synthetic"


def _timeout(route: str, measured: float, *, count: int, cut: float) -> Advice:
    advice = _by_percentile(_TIMED_OUT, measured, count=count)
    advice = advice._replace(owner=route, number="request_timeout")
    whole = count + cut
    if cut > (1 - _TIMED_OUT) * whole:
        why = f"{cut:,.0f} of {whole:,.0f} failed or were cut: how long they take is not known"
        return advice._replace(value=None, why=why)
    if advice.value is None or not _ROUTE.fullmatch(route):
        return advice
    return advice._replace(value=max(advice.value, _SHORTEST), table=("routes", route))


def _calls(points: Points, guards: Mapping[str, str]) -> Iterator[Advice]:
    by = ("server_address", "server_port")
    names = {
        "breaker": _values(points, _BREAKERS, "breaker"),
        "hedge": _values(points, _HEDGES, "operation"),
    }
    answered = histograms(points, _CALLS, by=by, admit=lambda labels: not labels.get("error_type"))
    for (host, port), histogram in answered.items():
        # A guard is that of an address as it was named, or else by its own name.
        addresses = {host, host.partition(".")[0], f"{host}:{port}"}
        for kind, number, share in (
            ("breaker", "slow_call_duration", _SLOW),
            ("hedge", "delay", _HEDGED),
        ):
            advice = _by_percentile(share, histogram.percentile(share), count=histogram.count)
            advice = advice._replace(owner=f"{host}:{port}", number=number)
            own = [name for name in names[kind] if guards.get(name, name) in addresses]
            for name in own:
                yield advice._replace(owner=f"{kind} {name}", table=("guards", kind, name))
            if not own:
                yield advice


def _pools(points: Points, seconds: float) -> Iterator[Advice]:
    for pool in _values(points, f"{_LOANS}_count", _POOL):
        # Each worker has a pool of its own: the busiest counts.
        loans = max(_of_pool(points, f"{_LOANS}_count", pool))
        total = max(_of_pool(points, f"{_LOANS}_sum", pool), default=0.0)
        advice = Advice(f"pool {pool}", "size", None, _too_few(round(loans), _LEAST_LOANS))
        if loans >= _LEAST_LOANS and seconds:
            busy = total / seconds
            present = max(_of_pool(points, _MOST, pool), default=math.nan)
            why = (
                f"{busy:.2f} busy on average, of {present:.0f}:"
                f" {loans:,.0f} loans in {seconds:,.0f} s"
            )
            size = pool_for(loans / seconds, total / loans)
            advice = advice._replace(value=size, why=why)
        elif loans >= _LEAST_LOANS:
            advice = advice._replace(why="for how long its loans were counted is not known")
        yield advice


def _of_pool(points: Points, name: str, pool: str) -> list[float]:
    return [
        value
        for point, value in points.items()
        if point.name == name and (_POOL, pool) in point.labels
    ]


def _rates(points: Points) -> Iterator[Advice]:
    for policy in _values(points, _RATES, "policy"):
        decisions: dict[str, float] = {}
        for point, count in points.items():
            labels = dict(point.labels)
            if point.name == _RATES and labels.get("policy") == policy:
                decision = labels.get("decision", "")
                decisions[decision] = decisions.get(decision, 0.0) + count
        limited = decisions.get("limited", 0.0)
        why = (
            f"{limited:,.0f} of {sum(decisions.values()):,.0f} limited; metrics name no callers:"
            " count the heaviest in the access log"
        )
        yield Advice(f"rate limit {policy}", "rates", None, why)


def _values(points: Points, name: str, label: str) -> list[str]:
    values = {dict(point.labels).get(label, "") for point in points if point.name == name}
    return sorted(values - {""})


def advise_by_report(report: Mapping[str, Any]) -> Iterator[Advice]:
    """Yield advice by the content of a `load.json`; `ValueError` if it is none."""
    try:
        rows = [
            (str(row["route"]), int(row["count"]), int(row["failed"]), float(row["p999"]))
            for row in report["rows"]
            if row["route"] != "all"
        ]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError("is no report of this version's `postfacta lab load`") from None
    for route, count, failed, measured in rows:
        if not 0 <= failed <= count or not 0 <= measured < math.inf:
            raise ValueError(f"{route[:100]} has figures that no run has")
        yield _timeout(route, measured, count=count - failed, cut=failed)


def _by_percentile(share: float, measured: float, *, count: int) -> Advice:
    """Return a percentile in seconds as advice that has no owner yet."""
    needed = math.ceil(round(_LEAST_BEYOND / (1 - share), 6))
    name = f"p{100 * share:g} of {count:,}"
    if count < needed:
        return Advice("", "", None, _too_few(count, needed))
    if measured == math.inf:
        return Advice("", "", None, f"{name} is above the last bucket, and not known")
    return Advice("", "", _rounded_up(measured), f"{name}: at most {measured:g} s")


def _too_few(count: int, needed: int) -> str:
    return f"too few: {count:,} of {needed:,}"


def _rounded_up(seconds: float) -> float:
    """Return the next number of two digits, which people can read."""
    if not seconds:
        return 0.0
    places = 1 - math.floor(math.log10(seconds))
    digits = math.ceil(round(seconds * 10.0**places, 6))
    return float(f"{digits}e{-places}")


def as_toml(advices: Iterable[Advice]) -> str:
    """Write the file that `postfacta_web.numbers` reads.

    Of two numbers for one guard, the larger; what such a file cannot hold is a comment.
    """
    chosen: dict[tuple[str, ...], Advice] = {}
    remarks: list[str] = []
    for advice in advices:
        former = chosen.get(advice.table)
        if advice.value is None or not advice.table:
            shown = "" if advice.value is None else f" = {advice.value:g}"
            remarks.append(f"{advice.owner} {advice.number}{shown}: {advice.why}")
        elif former is None or advice.value > (former.value or 0):
            chosen[advice.table] = advice
    lines = ["# By `postfacta lab advise`, for postfacta_web.numbers."]
    lines += [f"# {_CONTROLS.sub(' ', remark)}" for remark in remarks]
    for table, advice in chosen.items():
        why = _CONTROLS.sub(" ", advice.why)
        lines += ["", f"[{_keys(table)}]", f"{advice.number} = {advice.value!r}  # {why}"]
    return "\n".join([*lines, ""])


def _keys(table: Sequence[str]) -> str:
    *sections, name = table
    quoted = json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")
    return ".".join([*sections, quoted])
