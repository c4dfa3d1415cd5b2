"""What is asked of each service that keeps orders in a database."""

from __future__ import annotations

import httpx2

from tests.kit.waiting import wait_until
from tests.strangers.kit import Served
from tests.strangers.network import PATIENCE

__all__ = ["count", "until_ready"]


def count(served: Served) -> int:
    """Return how many orders there are."""
    return int(httpx2.get(f"{served.url}/orders", timeout=PATIENCE).raise_for_status().json())


def until_ready(served: Served, status: int) -> None:
    """Wait until its readiness has this status."""

    def is_so() -> bool:
        answer = httpx2.get(f"{served.url}/healthz/ready", timeout=PATIENCE)
        return answer.status_code == status

    wait_until(is_so, f"never {status}: see {served.log_file}", within=PATIENCE)
