"""A hardened application lives any number of lifespans, one after another, each as if it were the first.

So a fixture may start one application for each test, and a supervisor may start it again in one
process.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount

from postfacta_adapters.limits import SharedStore
from postfacta_core.asgi import HardenOptions, harden
from postfacta_core.asgi.stack import Hardened
from postfacta_core.drain._course import Phase
from postfacta_core.health.registry import HealthRegistry
from postfacta_core.testing import call_asgi
from postfacta_postgres import Database, PoolOptions
from tests.kit.lifespan import running
from tests.postgres.postgres import until_pinged


class Lives:
    """An application with a resource, a check and a lifespan of its own, which notes what happens."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.health = HealthRegistry()
        self.health.add("own", self._check, interval=3600, timeout=60)
        api = FastAPI(lifespan=self._lifespan)
        api.get("/")(self._serve)
        policy = HardenOptions(
            rate_limits=["1000/minute per client"], rate_limit_store=SharedStore("async+memory://")
        )
        self.app: Hardened = harden(
            api, service="shop", options=policy, health=self.health, resources=[self._resource()]
        )

    @asynccontextmanager
    async def _resource(self) -> AsyncGenerator[None]:
        self.log.append("open")
        yield
        self.log.append("close")

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncGenerator[None]:
        self.log.append("up")
        yield
        self.log.append("down")

    async def _check(self) -> None:
        self.log.append("check")

    async def _serve(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("served")


def test_a_client_is_entered_many_times_on_one_application() -> None:
    lives = Lives()
    threads = threading.active_count()
    for _ in range(3):
        lives.log.clear()
        with TestClient(lives.app) as client:
            assert client.get("/").text == "served"
            assert client.get("/healthz/ready").json() == {"status": "ready"}
            assert client.get("/healthz/startup").status_code == 200
            seen = [lives.app.lifecycle.phase]
            assert not lives.app.lifecycle.is_draining
        assert lives.log == ["open", "check", "up", "down", "close"]
        assert [*seen, lives.app.lifecycle.phase] == [Phase.READY, Phase.STOPPED]
        assert not lives.app.health.snapshot().ready
    assert threading.active_count() <= threads + 1


async def test_each_life_drains_anew() -> None:
    lives = Lives()
    for _ in range(2):
        with anyio.fail_after(20):
            async with running(lives.app):
                assert lives.app.health.snapshot().ready
                lives.app.lifecycle.drain()
                report = lives.app.health.snapshot()
                assert (report.ready, report.draining) == (False, True)
                assert lives.app.lifecycle.phase is Phase.DRAINING
        assert lives.app.running.is_closed


async def test_two_lives_at_once_are_refused() -> None:
    lives = Lives()
    async with running(lives.app):
        with pytest.raises(RuntimeError, match="one lifespan at a time"):
            async with lives.app.lifecycle:
                pass
        assert lives.app.lifecycle.phase is Phase.READY


async def test_a_check_that_passed_in_another_life_says_nothing_of_this_one() -> None:
    may_pass, asked = True, 0

    async def check() -> bool:
        nonlocal asked
        asked += 1
        return may_pass

    health = HealthRegistry()
    health.add("own", check, interval=0.01)
    async with health:
        with anyio.fail_after(20):
            while not health.snapshot().ready:
                await anyio.sleep(0.01)
    may_pass, asked = False, 0
    async with health:
        with anyio.fail_after(20):
            while asked < 3:
                await anyio.sleep(0.01)
        report = health.snapshot()
        assert (report.ready, report.started, report.draining) == (False, False, False)


def test_a_database_is_entered_again_in_another_loop(database_dsn: str) -> None:
    database = Database(database_dsn, options=PoolOptions(max_size=2, acquire_timeout=20))

    async def live() -> object:
        async with database:
            with anyio.fail_after(20):
                await database.wait_connected()
                await until_pinged(database)
                async with database.acquire() as one, database.acquire() as other:
                    return [await one.fetchval("select 1"), await other.fetchval("select 2")]

    assert [anyio.run(live) for _ in range(3)] == [[1, 2]] * 3


async def test_a_mounted_application_says_that_it_gets_no_lifespan(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outer = Starlette(routes=[Mount("/shop", Lives().app)])
    async with running(outer):
        answers = [await call_asgi(outer, path="/shop/healthz/ready") for _ in range(3)]
    said = [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "postfacta"
    ]
    told = [(level, text) for level, text in said if "lifespan" in text]
    assert len(told) == 1
    assert told[0][0] == "ERROR"
    assert "Harden the outermost application" in told[0][1]
    assert [answer.status for answer in answers] == [503] * 3
    assert "Harden the outermost application" in answers[0].body.decode()


def test_an_application_that_lives_says_nothing_of_its_lifespan(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lives = Lives()
    with TestClient(lives.app) as client:
        client.get("/")
    after = TestClient(lives.app).get("/healthz/ready")
    assert after.json() == {"status": "draining"}
    assert not [record for record in caplog.records if "lifespan" in record.getMessage()]
