"""What Chaos Toolkit asks about PostFacta and its processes: each gives a number, or fails."""

from __future__ import annotations

from uuid import uuid4

import anyio
import asyncpg
import httpx2

from chaos.lab import ours
from postfacta_lab.chaos.probes import error_share, p99

__all__ = [
    "busy_transactions",
    "instances_ready",
    "journey",
    "odd_exits",
    "steady",
    "wrong_facts",
]


def odd_exits() -> int:
    """Count the instances that were asked to end, and did so with another code than 0."""
    lab = ours()
    lab.own_stack()  # only those exit codes are known
    return sum(code != 0 for code in lab.exit_codes)


def instances_ready() -> int:
    """Count the instances that say they are ready."""
    return sum(
        instance.is_running and instance.is_ready() for instance in ours().own_stack().instances
    )


def journey() -> int:
    """Do what a user does, from recording an incident to closing it; 1 if it all went well."""
    load = ours().load
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
    return sum(len(found) for found in ours().judge().wrong.values())


def busy_transactions() -> int:
    """Count connections of the service that hold a transaction open and do nothing.

    They were leaked.
    """
    return anyio.run(_idle_in_transaction, ours().own_stack().dsn())


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
