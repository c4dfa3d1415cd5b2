"""A FastAPI service on `Database`, as its owner writes it, behind a network that loses answers."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import httpx2
import pytest

from tests.strangers.kit import Environments, Served
from tests.strangers.network import PATIENCE, LossyNetwork
from tests.strangers.orders import count, until_ready

SERVICE = """
    import os
    from contextlib import asynccontextmanager

    from fastapi import FastAPI
    from pydantic import BaseModel

    from postfacta_postgres import Database
    from postfacta_core.guards.retry import Retry
    from postfacta_core.asgi import harden, problem_handler
    from postfacta_core.errors import ResilienceError

    database = Database(os.environ["DSN"])
    retry = Retry("orders", attempts=3)


    @asynccontextmanager
    async def lifespan(app):
        await database.execute("create table if not exists orders (title text)")
        yield


    api = FastAPI(lifespan=lifespan, exception_handlers={ResilienceError: problem_handler})


    class Order(BaseModel):
        title: str


    @api.post("/orders", status_code=201)
    async def place(order: Order):
        await retry.call(database.execute, "insert into orders values ($1)", order.title)


    @api.get("/orders")
    async def count():
        return await database.fetchval("select count(*) from orders", repeatable=True)


    app = harden(api, service="orders", resources=[database])
    app.health.add("database", database.ping)
"""


@pytest.fixture
def network(database_dsn: str) -> Generator[LossyNetwork]:
    """Stand between the service and its database."""
    with LossyNetwork(database_dsn) as network:
        network.delay = 0.3
        yield network


@pytest.fixture
def served(environments: Environments, network: LossyNetwork, tmp_path: Path) -> Generator[Served]:
    """Serve it by uvicorn, from the wheel."""
    environment = environments("fastapi", "uvicorn", extras=["postgres"])
    with environment.serve(SERVICE, cwd=tmp_path, environment={"DSN": network.dsn}) as served:
        network.delay = 0.0
        yield served


def test_a_query_in_the_services_own_lifespan_starts_and_warns_of_nothing(served: Served) -> None:
    until_ready(served, 200)
    assert count(served) == 0
    assert "Application startup complete" in served.log
    assert "WARNING" not in served.log
    assert "Traceback" not in served.log


def test_a_write_whose_answer_was_lost_is_there_once(served: Served, network: LossyNetwork) -> None:
    network.losses = 9
    answer = httpx2.post(f"{served.url}/orders", json={"title": "victim"}, timeout=PATIENCE)
    assert (answer.status_code, answer.json()["code"]) == (503, "outcome-unknown")
    assert "retry-after" not in answer.headers
    assert network.losses == 8
    assert count(served) == 1
    assert "Traceback" not in served.log


@pytest.mark.parametrize("text", [r"\u0000", r"\ud800"])
def test_a_text_that_no_column_takes_is_the_callers_fault(served: Served, text: str) -> None:
    headers = {"content-type": "application/json"}
    body = f'{{"title": "{text}"}}'
    answer = httpx2.post(f"{served.url}/orders", content=body, headers=headers, timeout=PATIENCE)
    assert answer.status_code == 422
    assert count(served) == 0
    metrics = httpx2.get(f"{served.url}/metrics", timeout=PATIENCE).text
    assert 'status_code="5' not in metrics
    assert "Traceback" not in served.log


def test_a_database_that_is_away_is_503_and_unready_until_it_is_back(
    served: Served, network: LossyNetwork
) -> None:
    until_ready(served, 200)
    network.is_down = True
    network.cut()
    until_ready(served, 503)
    answer = httpx2.post(f"{served.url}/orders", json={"title": "now"}, timeout=PATIENCE)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    network.is_down = False
    until_ready(served, 200)
    answer = httpx2.post(f"{served.url}/orders", json={"title": "now"}, timeout=PATIENCE)
    assert answer.status_code == 201
    assert count(served) == 1
