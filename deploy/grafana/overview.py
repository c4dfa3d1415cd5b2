"""Show a service at one glance: objectives, requests, saturation, dependencies, instances."""

from __future__ import annotations

from typing import Final

from postfacta_slo.grafana.boards import Kind, Panel, Query, Row, Step

from .queries import DURATIONS, LAG, LIMITED, REQUESTS, chosen, faster_than, per_second, share

__all__ = ["EVENTS", "PHASES", "UP", "pool_panel", "rows", "versions_panel"]

_FAILED: Final = f'{LIMITED},error_type!="",http_response_status_code!="499"'
_ANSWERED: Final = f'{LIMITED},http_route!="_prerouting",outcome=~"2xx|3xx|4xx"'
_POOL: Final = "db_client_connection_pool_name"

UP: Final = {0: "down", 1: "up"}
PHASES: Final = {1: "starting", 2: "ready", 3: "draining", 4: "stopping", 5: "stopped"}

_DOWN_IS_RED: Final = (Step("red"), Step("green", 1))
_ZERO_IS_GREEN: Final = (Step("green"), Step("red", 1))

_VERSIONS: Final = f"count by (version, revision) ({chosen('postfacta_build_info')})"
EVENTS: Final = (
    ("New version", f"{_VERSIONS} unless {_VERSIONS.replace('})', '} offset 5m)')}"),
    ("Alert", 'ALERTS{service="$service",alertstate="firing",severity="page"}'),
)
"""What is marked on each time axis.

The five minutes after a version that was not there before, and pages.
"""


def rows() -> list[Row]:
    """Return all rows."""
    return [
        Row("Promises", _promises()),
        Row("Requests", _requests()),
        Row("Saturation", _saturation()),
        Row("Dependencies", _dependencies()),
        Row("Instances", _instances()),
    ]


def _promises() -> list[Panel]:
    left = Query('slo:period_error_budget_remaining:ratio{service="$service"}', "{{slo}}")
    burn = Query('slo:current_burn_rate:ratio{service="$service"}', "{{slo}}")
    budget = (Step("red"), Step("orange", 0.0), Step("yellow", 0.25), Step("green", 0.5))
    return [
        Panel(
            title="Error budget left",
            description=(
                "What is left of each objective's error budget in its period. Below half, releases"
                " slow down; below zero, they stop: see the error-budget policy."
            ),
            unit="percentunit",
            queries=[left],
            kind=Kind.NUMBERS,
            steps=budget,
            height=7,
        ),
        Panel(
            title="Burn rate now",
            description=(
                "How many times faster than planned each budget is used up: at 1 it lasts exactly"
                " for its period, at 14.4 a month's budget is gone in two days."
            ),
            unit="none",
            queries=[burn],
            kind=Kind.NUMBERS,
            steps=(Step("green"), Step("yellow", 1), Step("red", 6)),
            height=7,
        ),
        Panel(
            title="Error budget left over time",
            description=(
                "How each budget came to where it is. A steep fall is an incident, a slow one a"
                " defect."
            ),
            unit="percentunit",
            queries=[left],
            bottom=None,
            top=1,
            height=7,
        ),
    ]


def _requests() -> list[Panel]:
    failed = per_second(REQUESTS, _FAILED)
    asked = per_second(REQUESTS, LIMITED)
    slow = "Failures, refusals and streams are left out: a fast failure must not look like speed."
    return [
        Panel(
            title="Requests by route",
            description=(
                "Requests a second that ended, by route template. A sudden fall is as bad as"
                " failures."
            ),
            unit="reqps",
            queries=[Query(per_second(REQUESTS, LIMITED, by="http_route"), "{{http_route}}")],
            stacked=True,
        ),
        Panel(
            title="Failures by route and reason",
            description=(
                "Requests a second that failed through our fault: crashes, 5xx, shed, out of time,"
                " cut off. Clients that left (499) and their own mistakes (4xx) are no failures."
            ),
            unit="reqps",
            queries=[
                Query(
                    per_second(REQUESTS, _FAILED, by="http_route, error_type"),
                    "{{http_route}} {{error_type}}",
                )
            ],
            stacked=True,
        ),
        Panel(
            title="Share of failures",
            description=(
                "Failed requests among all. It is 0 while none fails, and empty without requests."
            ),
            unit="percentunit",
            queries=[Query(share(failed, asked), "failed")],
            steps=(Step("green"), Step("red", 0.005)),
        ),
        Panel(
            title="How long requests take",
            description=f"From arrival to the last byte, with traces of single requests. {slow}",
            unit="s",
            queries=[
                Query(faster_than(0.5, DURATIONS, _ANSWERED), "P50"),
                Query(faster_than(0.95, DURATIONS, _ANSWERED), "P95", exemplars=True),
                Query(faster_than(0.99, DURATIONS, _ANSWERED), "P99"),
            ],
        ),
        Panel(
            title="P95 by route",
            description=f"What 95 of 100 requests to each route stay below. {slow}",
            unit="s",
            queries=[
                Query(faster_than(0.95, DURATIONS, _ANSWERED, by="http_route"), "{{http_route}}")
            ],
        ),
        Panel(
            title="Answers by status",
            description=(
                "Requests a second by the status of their answer; 499 is a client that left"
                " before it."
            ),
            unit="reqps",
            queries=[
                Query(
                    per_second(REQUESTS, LIMITED, by="http_response_status_code"),
                    "{{http_response_status_code}}",
                )
            ],
            stacked=True,
        ),
    ]


def _saturation() -> list[Panel]:
    late = per_second("postfacta_deadline_exceeded_total", by="stage")
    asked = per_second(REQUESTS, LIMITED)
    shed = per_second("postfacta_limiter_decisions_total", 'decision="shed"', by="limiter")
    return [
        pool_panel(),
        Panel(
            title="Requests under way and their limit",
            description=(
                "Requests under way, in the queue, and the most that are let in at once. A limit"
                " that falls while the queue grows is load shedding at work."
            ),
            unit="short",
            queries=[
                Query(
                    f"sum by (limiter) ({chosen(f'postfacta_limiter_{what}')})",
                    f"{{{{limiter}}}}: {word}",
                )
                for what, word in (
                    ("inflight", "under way"),
                    ("queued", "queued"),
                    ("limit", "limit"),
                )
            ],
        ),
        Panel(
            title="Shed",
            description=(
                "Requests a second that were refused early, since they could not be served in time."
            ),
            unit="reqps",
            queries=[Query(shed, "{{limiter}}")],
            steps=_ZERO_IS_GREEN,
        ),
        Panel(
            title="Event loop lag",
            description=(
                "How late the event loop runs. Above 0.25 s something blocks it, and every request"
                " waits."
            ),
            unit="s",
            queries=[Query(faster_than(q, LAG), f"P{q * 100:g}") for q in (0.5, 0.99)],
            steps=(Step("green"), Step("red", 0.25)),
        ),
        Panel(
            title="Out of time by stage",
            description=(
                "Requests that ran out of time, as a share of all, by where they were: the stage"
                " names the place to look at."
            ),
            unit="percentunit",
            queries=[Query(f"{late} / on() group_left() ({asked} > 0)", "{{stage}}")],
            steps=(Step("green"), Step("red", 0.01)),
        ),
        Panel(
            title="Active requests",
            description="Requests that came and are not answered yet, by method.",
            unit="short",
            queries=[
                Query(
                    f"sum by (http_request_method) ({chosen('http_server_active_requests')})",
                    "{{http_request_method}}",
                )
            ],
            stacked=True,
        ),
    ]


def pool_panel() -> Panel:
    """Draw the connections of each pool against its bound."""
    open_ones = "db_client_connection_count"
    used, idle = (
        chosen(open_ones, f'db_client_connection_state="{state}"') for state in ("used", "idle")
    )
    drawn = (
        ("used", used),
        ("idle", idle),
        ("waiting", chosen("db_client_connection_pending_requests")),
        ("most", chosen("db_client_connection_max")),
    )
    return Panel(
        title="Database connections",
        description=(
            "Connections in use, idle, and the most there may be; and callers that wait for one."
            " Waiters while all are in use mean slow statements, or a pool that is too small."
        ),
        unit="short",
        queries=[
            Query(f"sum by ({_POOL}) ({selected})", f"{{{{{_POOL}}}}}: {word}")
            for word, selected in drawn
        ],
    )


def _dependencies() -> list[Panel]:
    check = "check, critical"
    breaker = chosen("postfacta_breaker_state", 'state=~"open|forced_open"')
    return [
        Panel(
            title="Checks",
            description=(
                "Whether each dependency answers its check. A critical one that is down makes us"
                " not ready."
            ),
            unit="none",
            queries=[
                Query(f"min by ({check}) ({chosen('postfacta_health_check_up')})", "{{check}}")
            ],
            kind=Kind.STATES,
            steps=_DOWN_IS_RED,
            names=UP,
        ),
        Panel(
            title="Age of checks",
            description=(
                "How long ago each check came back. A check that hangs grows old, and then counts"
                " as down."
            ),
            unit="s",
            queries=[
                Query(
                    f"max by ({check}) ({chosen('postfacta_health_check_age_seconds')})",
                    "{{check}}",
                )
            ],
        ),
        Panel(
            title="Open circuits",
            description=(
                "1 while the circuit to a dependency is open: calls are refused at once, and not"
                " sent."
            ),
            unit="none",
            queries=[Query(f"max by (breaker) ({breaker})", "{{breaker}}")],
            kind=Kind.STATES,
            steps=_ZERO_IS_GREEN,
            names={0: "closed", 1: "open"},
        ),
    ]


def _instances() -> list[Panel]:
    state = "postfacta_lifecycle_state"
    phases = " or ".join(
        f"""{chosen(state, f'state="{phase}"')} * {number}""" for number, phase in PHASES.items()
    )
    started = chosen("process_start_time_seconds")
    return [
        Panel(
            title="Scraped",
            description=(
                "Whether Prometheus reaches each instance. Down for all of them is an outage."
            ),
            unit="none",
            queries=[Query(chosen("up"), "{{instance}}")],
            kind=Kind.STATES,
            steps=_DOWN_IS_RED,
            names=UP,
            width=6,
        ),
        Panel(
            title="Phase of life",
            description="Starting, ready, draining before a stop, stopped.",
            unit="none",
            queries=[Query(f"max by (instance) ({phases})", "{{instance}}")],
            kind=Kind.STATES,
            steps=(Step("blue"), Step("green", 2), Step("orange", 3)),
            names=PHASES,
            width=6,
        ),
        Panel(
            title="Up for",
            description=(
                "How long ago each process started. Short times again and again are a crash loop."
            ),
            unit="s",
            queries=[Query(f"time() - {started}", "{{instance}}")],
            kind=Kind.NUMBERS,
            width=6,
        ),
        versions_panel(),
    ]


def versions_panel() -> Panel:
    """List what runs."""
    labels = "version, revision, python_version"
    return Panel(
        title="Versions",
        description=(
            "What runs, and in how many instances. Two versions for long are a roll-out that got"
            " stuck."
        ),
        unit="none",
        queries=[Query(f"count by ({labels}) ({chosen('postfacta_build_info')})")],
        kind=Kind.TABLE,
        width=6,
    )
