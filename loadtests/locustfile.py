"""Load a running PostFacta with a believable mix, and fail the run if users would have noticed.

    make load URL=http://127.0.0.1:8080 TOKEN=<bearer token> [USERS=20] [TIME=30s]

Each simulated user sends one request a second, however long answers take (Locust's `constant_throughput`), so the
rate is USERS a second as long as the service keeps up. The run fails if more than 0.1 % of the requests failed, or if
the 95th percentile is above 200 ms.
"""

from __future__ import annotations

import os
import uuid

from locust import HttpUser, constant_throughput, events, task
from locust.env import Environment

__all__ = ["Responder"]

MAX_FAILED = 0.001
P95_SECONDS = 0.2


class Responder(HttpUser):
    """Reads mostly, records sometimes."""

    wait_time = constant_throughput(1)

    def on_start(self) -> None:
        """Sign each request."""
        self.client.headers["Authorization"] = f"Bearer {os.environ.get('TOKEN', '')}"

    @task(6)
    def list_incidents(self) -> None:
        self.client.get("/api/v1/incidents?limit=20", name="/api/v1/incidents")

    @task(2)
    def list_v0(self) -> None:
        self.client.get("/api/v0/incidents")

    @task(1)
    def record(self) -> None:
        body = {
            "title": "Load test incident",
            "description": "Written by the load test; safe to archive",
            "severity": "LOW",
            "kind": "exercise",
        }
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        with self.client.post(
            "/api/v1/incidents",
            json=body,
            headers=headers,
            catch_response=True,
            name="POST /api/v1/incidents",
        ) as answer:
            if answer.status_code != 201:
                answer.failure(f"{answer.status_code}: {answer.text}")  # pyright: ignore[reportUnknownMemberType]


# Locust leaves the types of its listeners open.
@events.quitting.add_listener  # type: ignore[untyped-decorator]
def judge(environment: Environment, **_: object) -> None:
    """Set the exit code by what users would have noticed."""
    total = environment.stats.total
    p95 = (total.get_response_time_percentile(0.95) or 0) / 1000
    good = total.num_requests > 0 and total.fail_ratio <= MAX_FAILED and p95 <= P95_SECONDS
    verdict = "pass" if good else "FAIL"
    print(f"{verdict}: {total.num_requests} requests, {total.fail_ratio:.2%} failed, p95 {p95:.3f} s")  # noqa: T201 - its job
    environment.process_exit_code = 0 if good else 1
