"""Show what each policy does.

Circuits, retries, bulkheads, limits, hedges, fallbacks, deadlines.
"""

from __future__ import annotations

from typing import Final

from postfacta_slo.grafana.boards import Kind, Panel, Query, Row, Step

from .queries import chosen, per_second, share

__all__ = ["rows"]

_STATE: Final = "postfacta_breaker_state"
_LEVELS: Final = {0: "closed", 1: "half open", 2: "open", 3: "held open"}
_ONE_PERCENT: Final = (Step("green"), Step("red", 0.01))


def rows() -> list[Row]:
    """Return all rows."""
    return [
        Row("Circuit breakers", _breakers()),
        Row("Retries", _retries()),
        Row("Bulkheads", _bulkheads()),
        Row("Load shedding", _limiters()),
        Row("Rate limits", _rates()),
        Row("Hedges, fallbacks, deadlines", _others()),
    ]


def _breakers() -> list[Panel]:
    calls = "postfacta_breaker_calls_total"
    levels = " or ".join(
        f"""{chosen(_STATE, f'state="{state}"')} * {level}"""
        for level, state in enumerate(("half_open", "open", "forced_open"), 1)
    )
    rejected = per_second(calls, 'outcome="rejected"', by="breaker")
    changes = per_second("postfacta_breaker_transitions_total", by="breaker, from_state, to_state")
    return [
        Panel(
            title="Circuits",
            description=(
                "The worst state of each circuit among the instances. Open: its dependency fails,"
                " calls are refused at once. Repair the dependency, and leave the breaker alone."
            ),
            unit="none",
            queries=[Query(f"max by (breaker) ({levels})", "{{breaker}}")],
            kind=Kind.STATES,
            steps=(Step("green"), Step("yellow", 1), Step("red", 2)),
            names=_LEVELS,
            width=12,
        ),
        Panel(
            title="Calls by outcome",
            description=(
                "Calls a second through each circuit. `slow` counts against it like a failure."
            ),
            unit="ops",
            queries=[Query(per_second(calls, by="breaker, outcome"), "{{breaker}} {{outcome}}")],
            stacked=True,
            width=12,
        ),
        Panel(
            title="Share of rejected calls",
            description="Calls that an open circuit refused, among all.",
            unit="percentunit",
            queries=[Query(share(rejected, per_second(calls, by="breaker")), "{{breaker}}")],
            steps=_ONE_PERCENT,
            width=12,
        ),
        Panel(
            title="Changes of state",
            description=(
                "How often circuits change. Open and closed in turn all the time is a threshold too"
                " tight."
            ),
            unit="ops",
            queries=[Query(changes, "{{breaker}} {{from_state}} → {{to_state}}")],
            width=12,
        ),
    ]


def _retries() -> list[Panel]:
    tries = "postfacta_retry_attempts_total"
    again = per_second(tries, 'outcome="retried"', by="operation")
    refused = per_second(
        tries, 'outcome=~"budget_refused|exhausted|deadline"', by="operation, outcome"
    )
    return [
        Panel(
            title="Tries by outcome",
            description=(
                "Tries a second. `recovered` is what retries are for; `exhausted` failed each time."
            ),
            unit="ops",
            queries=[
                Query(per_second(tries, by="operation, outcome"), "{{operation}} {{outcome}}")
            ],
            stacked=True,
            width=6,
        ),
        Panel(
            title="Share of retries",
            description=(
                "Tries that are followed by another. Above a tenth, retries add to the trouble."
            ),
            unit="percentunit",
            queries=[Query(share(again, per_second(tries, by="operation")), "{{operation}}")],
            steps=(Step("green"), Step("red", 0.1)),
            width=6,
        ),
        Panel(
            title="Given up",
            description=(
                "Calls a second that were not tried again: no budget, no time, or no try left."
            ),
            unit="ops",
            queries=[Query(refused, "{{operation}} {{outcome}}")],
            width=6,
        ),
        Panel(
            title="Budget for retries",
            description=(
                "Retries that may be made now. At 0 a storm was stopped: the dependency is down for"
                " all."
            ),
            unit="short",
            queries=[
                Query(f"min by (budget) ({chosen('postfacta_retry_budget_tokens')})", "{{budget}}")
            ],
            width=6,
        ),
    ]


def _bulkheads() -> list[Panel]:
    decisions = "postfacta_bulkhead_decisions_total"
    refused = per_second(decisions, 'decision="refused"', by="bulkhead")
    return [
        Panel(
            title="Slots",
            description="Calls under way, waiting, and the slots there are.",
            unit="short",
            queries=[
                Query(
                    f"sum by (bulkhead) ({chosen(f'postfacta_bulkhead_{what}')})",
                    f"{{{{bulkhead}}}}: {word}",
                )
                for what, word in (
                    ("used", "under way"),
                    ("waiting", "waiting"),
                    ("slots", "slots"),
                )
            ],
            width=12,
        ),
        Panel(
            title="Share of refused calls",
            description=(
                "Calls that found no slot, among all. The dependency is slower than planned, or has"
                " more to do."
            ),
            unit="percentunit",
            queries=[Query(share(refused, per_second(decisions, by="bulkhead")), "{{bulkhead}}")],
            steps=_ONE_PERCENT,
            width=12,
        ),
    ]


def _limiters() -> list[Panel]:
    decisions = "postfacta_limiter_decisions_total"
    waited = "postfacta_limiter_queue_time_seconds_total"
    shed = per_second(decisions, 'decision="shed",mode="enforce"', by="limiter")
    admitted = per_second(decisions, 'decision="admitted"', by="limiter")
    refusals = per_second(decisions, 'decision="shed"', by="priority, mode")
    return [
        Panel(
            title="Limit",
            description=(
                "Requests under way and in the queue, against the most at once, as the limiter has"
                " learnt it."
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
            width=6,
        ),
        Panel(
            title="Shed by priority",
            description=(
                "Requests a second that were refused, by how much they matter; in `shadow` they"
                " were only counted."
            ),
            unit="reqps",
            queries=[Query(refusals, "{{priority}} {{mode}}")],
            stacked=True,
            width=6,
        ),
        Panel(
            title="Share of shed requests",
            description=(
                "Refused requests among all. Above 1 % for minutes: scale out, or find what became"
                " slow."
            ),
            unit="percentunit",
            queries=[Query(share(shed, per_second(decisions, by="limiter")), "{{limiter}}")],
            steps=_ONE_PERCENT,
            width=6,
        ),
        Panel(
            title="Wait in the queue",
            description="What an admitted request waited on average before it was let in.",
            unit="s",
            queries=[
                Query(f"{per_second(waited, by='limiter')} / ({admitted} > 0)", "{{limiter}}")
            ],
            width=6,
        ),
        Panel(
            title="Lateness",
            description=(
                "How old requests get by what they may take, and how many times longer than usual"
                " they take for a reason outside. Above 1: a queue grows; a scale above 1.5: a"
                " dependency became slow."
            ),
            unit="short",
            queries=[
                Query(
                    f"max by (limiter) ({chosen(f'postfacta_limiter_{what}')})",
                    f"{{{{limiter}}}}: {what}",
                )
                for what in ("pressure", "scale")
            ],
            width=12,
        ),
        Panel(
            title="Verdicts",
            description=(
                "What cuts of the limit showed, a second: a queue of our own, or work that became"
                " slow."
            ),
            unit="short",
            queries=[
                Query(
                    per_second("postfacta_limiter_verdicts_total", by="limiter, verdict"),
                    "{{limiter}} {{verdict}}",
                )
            ],
            width=12,
        ),
    ]


def _rates() -> list[Panel]:
    decisions = "postfacta_ratelimit_decisions_total"
    limited = per_second(decisions, 'decision="limited",mode="enforce"', by="policy")
    return [
        Panel(
            title="Decisions",
            description=(
                "Requests a second by decision of each limit. `local`: the shared store is away."
            ),
            unit="reqps",
            queries=[
                Query(per_second(decisions, by="policy, decision"), "{{policy}} {{decision}}")
            ],
            stacked=True,
            width=6,
        ),
        Panel(
            title="Share of limited requests",
            description=(
                "Requests answered 429 among all. Above a fifth a client abuses the service, or a"
                " limit is low."
            ),
            unit="percentunit",
            queries=[Query(share(limited, per_second(decisions, by="policy")), "{{policy}}")],
            steps=(Step("green"), Step("red", 0.2)),
            width=6,
        ),
        Panel(
            title="Shared store",
            description="Whether the store answers in which all instances count together.",
            unit="none",
            queries=[
                Query(f"min by (policy) ({chosen('postfacta_ratelimit_store_up')})", "{{policy}}")
            ],
            kind=Kind.STATES,
            steps=(Step("red"), Step("green", 1)),
            names={0: "away", 1: "answers"},
            width=6,
        ),
        Panel(
            title="Callers known",
            description="Callers that the memory of an instance keeps count of; it has a bound.",
            unit="short",
            queries=[
                Query(f"sum by (policy) ({chosen('postfacta_ratelimit_keys')})", "{{policy}}")
            ],
            width=6,
        ),
    ]


def _others() -> list[Panel]:
    hedges = per_second("postfacta_hedge_attempts_total", by="operation, outcome")
    answers = per_second("postfacta_fallback_answers_total", by="operation, source")
    return [
        Panel(
            title="Hedges",
            description=(
                "Calls a second that were slow, by what came of the second try. `second` is time"
                " won."
            ),
            unit="ops",
            queries=[Query(hedges, "{{operation}} {{outcome}}")],
            stacked=True,
            width=6,
        ),
        Panel(
            title="Where answers came from",
            description=(
                "`fresh` from the call; `stale` kept from before; `default` made up; `none` failed."
            ),
            unit="ops",
            queries=[Query(answers, "{{operation}} {{source}}")],
            stacked=True,
            width=6,
        ),
        Panel(
            title="Out of time",
            description="Requests a second that ran out of time, by where they were.",
            unit="reqps",
            queries=[
                Query(per_second("postfacta_deadline_exceeded_total", by="stage"), "{{stage}}")
            ],
            stacked=True,
            width=6,
        ),
        Panel(
            title="Handlers overdue",
            description=(
                "Handlers that were cancelled and go on nevertheless: they swallow the"
                " cancellation."
            ),
            unit="short",
            queries=[
                Query(f"sum by (instance) ({chosen('postfacta_requests_overdue')})", "{{instance}}")
            ],
            steps=(Step("green"), Step("red", 1)),
            width=6,
        ),
    ]
