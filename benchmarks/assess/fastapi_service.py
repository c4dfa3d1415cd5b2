"""An API as tutorials write it: `REFERENCE=memory` or `postgres`, with `-harden` behind it hardened and nothing else."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from fastapi import FastAPI, HTTPException
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from pydantic import BaseModel

from postfacta_core import ResilienceError, logs
from postfacta_core.asgi import ASGIApp, HardenOptions, Telemetry, harden, problem_handler
from postfacta_core.otlp import Provider
from postfacta_postgres import Database

__all__ = ["app"]

REFERENCE = os.environ["REFERENCE"]
DSN = os.environ.get("DATABASE_URL", "")


class Item(BaseModel):
    """An item of a shop."""

    name: str
    price: float


items: dict[int, Item] = {}
telemetry = Telemetry(version="1.0.0")
handlers: Any = {ResilienceError: problem_handler, Exception: problem_handler}


@asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncGenerator[None]:
    async with asyncpg.create_pool(DSN) as pool:
        api.state.store = pool
        yield


def in_memory(api: FastAPI) -> None:
    """Keep items in a dictionary."""

    @api.post("/items", status_code=201)
    async def create(item: Item) -> dict[str, Any]:
        items[number := len(items) + 1] = item
        return {"id": number, **item.model_dump()}

    @api.get("/items/{item_id}")
    async def read(item_id: int) -> Item:
        if item_id not in items:
            raise HTTPException(404)
        return items[item_id]


def in_postgres(api: FastAPI) -> None:
    """Keep items in a table."""

    @api.post("/items", status_code=201)
    async def create(item: Item) -> dict[str, Any]:
        number = await api.state.store.fetchval(
            "insert into items (name, price) values ($1, $2) returning id", item.name, item.price
        )
        return {"id": number, **item.model_dump()}

    @api.get("/items/{item_id}")
    async def read(item_id: int) -> dict[str, Any]:
        row = await api.state.store.fetchrow("select name, price from items where id = $1", item_id)
        if row is None:
            raise HTTPException(404)
        return dict(row)


def build() -> ASGIApp:
    """Make the service that is asked for."""
    if REFERENCE.startswith("memory"):
        api = FastAPI(exception_handlers=handlers if REFERENCE.endswith("harden") else None)
        in_memory(api)
        return hardened(api, None) if REFERENCE.endswith("harden") else api
    if REFERENCE == "postgres":
        api = FastAPI(lifespan=lifespan)
        in_postgres(api)
        return api
    database = Database(DSN, observer=telemetry.observer)
    api = FastAPI(exception_handlers=handlers)
    api.state.store = database
    in_postgres(api)
    return hardened(api, database)


def hardened(api: FastAPI, database: Database | None) -> ASGIApp:
    """Harden it, as the how-to does, and nothing else."""
    logs.configure(format="json", service="shop", version="1.0.0")
    trace.set_tracer_provider(Provider(OTLPSpanExporter(timeout=5)))
    made = harden(
        api,
        service="shop",
        options=HardenOptions.from_env("SHOP_"),
        telemetry=telemetry,
        resources=[database] if database else [],
    )
    if database is not None:
        made.health.add("database", database.ping)
    return made


app: ASGIApp = build()
