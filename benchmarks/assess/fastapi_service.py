"""An API as tutorials write it: `REFERENCE=memory`, `postgres` or `sqlalchemy`.

With `-harden` behind it hardened, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import sqlalchemy
from fastapi import FastAPI, HTTPException
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from postfacta_adapters.otlp import Provider
from postfacta_adapters.sqlalchemy import guard_engine
from postfacta_core import ResilienceError, logs
from postfacta_core.asgi import ASGIApp, HardenOptions, Telemetry, harden, problem_handler
from postfacta_core.asgi.stack import Hardened
from postfacta_core.telemetry.metrics import Metrics
from postfacta_postgres import Database

__all__ = ["app"]

REFERENCE = os.environ["REFERENCE"]
DSN = os.environ.get("DATABASE_URL", "")


class Item(BaseModel):
    """An item of a shop."""

    name: str
    price: float


class Base(DeclarativeBase):
    """The tables."""


class Row(Base):
    """An item in the table."""

    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    price: Mapped[float]


items: dict[int, Item] = {}
telemetry = Telemetry(metrics=Metrics(version="1.0.0"))
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


def by_sqlalchemy(api: FastAPI, engine: AsyncEngine) -> None:
    """Keep items in a table, by its model."""

    @api.post("/items", status_code=201)
    async def create(item: Item) -> dict[str, Any]:
        async with AsyncSession(engine) as session:
            row = Row(name=item.name, price=item.price)
            session.add(row)
            await session.commit()
            await session.refresh(row)
            return {"id": row.id, **item.model_dump()}

    @api.get("/items/{item_id}")
    async def read(item_id: int) -> Item:
        async with AsyncSession(engine) as session:
            row = await session.get(Row, item_id)
        if row is None:
            raise HTTPException(404)
        return Item(name=row.name, price=row.price)


def build() -> ASGIApp:
    """Make the service that is asked for."""
    if REFERENCE.startswith("memory"):
        api = FastAPI(exception_handlers=handlers if REFERENCE.endswith("harden") else None)
        in_memory(api)
        return hardened(api, None) if REFERENCE.endswith("harden") else api
    if REFERENCE.startswith("sqlalchemy"):
        return with_sqlalchemy()
    if REFERENCE == "postgres":
        api = FastAPI(lifespan=lifespan)
        in_postgres(api)
        return api
    database = Database(DSN, observer=telemetry.observer)
    api = FastAPI(exception_handlers=handlers)
    api.state.store = database
    in_postgres(api)
    made = hardened(api, database)
    made.health.add("database", database.ping)
    return made


def with_sqlalchemy() -> ASGIApp:
    """Make it on SQLAlchemy, guarded if it is hardened."""
    is_hardened = REFERENCE.endswith("harden")
    address = DSN.replace("postgresql:", "postgresql+asyncpg:", 1)
    bounds = {"pool_size": 10, "max_overflow": 0, "pool_timeout": 1.0} if is_hardened else {}
    engine = create_async_engine(address, **bounds)
    api = FastAPI(exception_handlers=handlers if is_hardened else None)
    by_sqlalchemy(api, engine)
    if not is_hardened:
        return api
    guard_engine(engine, name="shop", observer=telemetry.observer)

    async def ping() -> None:
        async with engine.connect() as connection:
            await connection.execute(sqlalchemy.text("select 1"))

    made = hardened(api, None)
    made.health.add("database", ping)
    return made


def hardened(api: FastAPI, database: Database | None) -> Hardened:
    """Harden it, as the how-to does, and nothing else."""
    logs.configure(format="json", service="shop", version="1.0.0")
    trace.set_tracer_provider(Provider(OTLPSpanExporter(timeout=5)))
    return harden(
        api,
        service="shop",
        options=HardenOptions.from_env("SHOP_"),
        telemetry=telemetry,
        resources=[database] if database else [],
    )


app: ASGIApp = build()
