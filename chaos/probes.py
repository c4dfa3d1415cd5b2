"""What Chaos Toolkit asks about the service: each gives a number, or fails.

Those about a fault's course say "all is well" before the first fault, so that one hypothesis serves before,
during and after.
"""

from __future__ import annotations

from uuid import uuid4

import anyio
import asyncpg
import httpx2

from chaos.lab import current

__all__ = [
    "busy_transactions",
    "error_share",
    "failures",
    "instances_ready",
    "journey",
    "longest_answer",
    "longest_recovery",
    "odd_exits",
    "p99",
    "readiness_fell",
    "slowest_live",
    "steady",
    "wrong_facts",
]

_THREE_CHECKS = 20.0  # seconds: three waits of 5.5 at most, three checks of 1


def error_share() -> float:
    """Return which share of users' requests failed in the window."""
    lab = current()
    return lab.load.since(lab.load.now() - lab.window).error_share


def p99() -> float:
    """Return the 99th percentile of users' waits in the window, in seconds."""
    lab = current()
    return lab.load.since(lab.load.now() - lab.window).p99


def failures() -> int:
    """Count the users' requests that failed since the first fault."""
    lab = current()
    return 0 if lab.began is None else lab.load.since(lab.began).failed


def longest_answer() -> float:
    """Return the longest wait of a user since the first fault, in seconds."""
    lab = current()
    return 0.0 if lab.began is None else lab.load.since(lab.began).longest


def longest_recovery() -> float:
    """Return the longest time from the end of a fault until users were well again, in seconds."""
    return max(current().recoveries, default=0.0)


def odd_exits() -> int:
    """Count the instances that were asked to end, and did so with another code than 0."""
    lab = current()
    lab.own_stack()  # only those exit codes are known
    return sum(code != 0 for code in lab.exit_codes)


def slowest_live() -> float:
    """Return the longest time that an instance's liveness probe took, in seconds.

    Raises:
        RuntimeError: None ever did.
    """
    if not (slowest := current().slowest_live):
        raise RuntimeError("/healthz/live was never answered 200: there is nothing to tell")
    return slowest


def readiness_fell() -> int:
    """Return whether instances said that they were not ready, as they should during a long fault: 1 for yes.

    Before they say so they look three times, every five seconds; a shorter fault says nothing about it.
    """
    lab = current()
    length = lab.marks[-1].at - lab.marks[0].at if lab.marks else 0.0
    return int(length < _THREE_CHECKS or lab.unready > 0)


def instances_ready() -> int:
    """Count the instances that say they are ready."""
    return sum(instance.is_running and instance.is_ready() for instance in current().own_stack().instances)


def journey() -> int:
    """Do what a user does, from recording an incident to closing it; 1 if it all went well."""
    load = current().load
    headers = {"Authorization": f"Bearer {load.token}"}
    with httpx2.Client(base_url=load.url, headers=headers, timeout=5.0) as client:
        new = {
            "title": "A probe's journey",
            "description": "Recorded by a probe of chaos",
            "severity": "LOW",
            "kind": "exercise",
        }
        key = {"Idempotency-Key": str(uuid4())}
        made = client.post("/api/v1/incidents", json=new, headers=key).raise_for_status().json()
        path = f"/api/v1/incidents/{made['id']}"
        for move in ({"to": "IN_PROGRESS"}, {"to": "CLOSED", "outcome": "fixed"}):
            client.post(f"{path}/transitions", json=move).raise_for_status()
        found = client.get(path).raise_for_status().json()
    return int(found["status"] == "CLOSED" and found["version"] == 3)


def wrong_facts() -> int:
    """Read everything back, and count what is lost, invented, doubled, mismatched or torn."""
    return sum(len(found) for found in current().judge().wrong.values())


def busy_transactions() -> int:
    """Count connections of the service that hold a transaction open and do nothing: they were leaked."""
    return anyio.run(_idle_in_transaction, current().own_stack().dsn())


async def _idle_in_transaction(dsn: str) -> int:
    connection = await asyncpg.connect(dsn, timeout=5.0)
    try:
        count = await connection.fetchval(
            "select count(*) from pg_stat_activity where state like 'idle in transaction%'"
            " and now() - state_change > interval '2 seconds'"
        )
    finally:
        await connection.close()
    return int(count)


def steady() -> bool:
    """Return whether users are well now: for the end of a rollback."""
    return error_share() < 0.005 and p99() < 0.5 and journey() == 1
