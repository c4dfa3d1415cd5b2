"""What the original answered, replayed.

Seventy exchanges, each with a verdict on what must stay the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

import anyio
import httpx2
import pytest

from postfacta_app.db import Transactions
from postfacta_app.incidents.v0 import PostgresV0
from postfacta_app.settings import Settings, load_settings
from postfacta_embedded import EmbeddedPostgres
from postfacta_postgres import Database
from tests.app.v0_app import FailingStore, FixedStore, MemoryStore, a_client, an_application
from tests.kit.every import every
from tests.kit.pg import fresh_database


@dataclass
class Exchange:
    """A request to the original, its answer, and what must stay of it."""

    name: str
    setting: str = ""
    verdict: str = ""
    request: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    content: bytes = b""
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict[str, str])
    body: str = ""

    def read(self, line: str) -> None:
        mark, _, rest = line.partition(" ")
        if mark in {"@", "?", ">", "<|"}:
            setattr(
                self, {"@": "setting", "?": "verdict", ">": "request", "<|": "body"}[mark], rest
            )
        elif mark == "<":
            self.status = int(rest)
        elif mark in {">|", ">j"}:
            self.content = (rest if mark == ">|" else json.loads(rest)).encode()
        elif mark == ">>":
            self.headers.append(_header(rest))
        elif mark == "<<":
            self.answer_headers.update([_header(rest)])
        else:
            assert not line, line


def _header(text: str) -> tuple[str, str]:
    name, _, value = text.partition(": ")
    return name, value


def _exchanges() -> dict[str, Exchange]:
    found: dict[str, Exchange] = {}
    text = (Path(__file__).parent / "data/v0-golden.txt").read_text(encoding="utf-8")
    for block in text.split("\n=== ")[1:]:
        name, *lines = block.split("\n")
        found[name] = Exchange(name)
        for line in lines:
            found[name].read(line)
    return found


GOLDEN: Final = _exchanges()
MEMORY: Final = "memory store"


def _settings(setting: str) -> Settings:
    return load_settings(
        {
            "ENVIRONMENT": "prod" if "ENVIRONMENT=prod" in setting else "local",
            "APP_VERSION": "1.2.3" if "APP_VERSION=1.2.3" in setting else "",
        }
    )


async def _replay(
    store_of: Callable[[str], PostgresV0], chosen: Mapping[str, Exchange]
) -> Mapping[str, Any]:
    """Send the requests in order, to one application for each setting."""
    answers: dict[str, httpx2.Response] = {}
    async with AsyncExitStack() as stack:
        clients: dict[str, httpx2.AsyncClient] = {}
        for name, exchange in chosen.items():
            setting = exchange.setting
            if setting not in clients:
                app = an_application(store_of(setting), _settings(setting))
                clients[setting] = await stack.enter_async_context(a_client(app))
            method, url = exchange.request.split(" ")
            url = url.replace("//HOST", "//localhost")
            answers[name] = await clients[setting].request(
                method, url, headers=exchange.headers, content=exchange.content
            )
    return answers


def _memory_store(setting: str) -> PostgresV0:
    if "always fails" in setting:
        return FailingStore()
    return FixedStore() if "three incidents" in setting else MemoryStore()


async def _replay_on_postgres(dsn: str, chosen: Mapping[str, Exchange]) -> Mapping[str, Any]:
    async with Database(dsn) as database:
        with anyio.fail_after(10):
            await database.wait_connected()
        store = PostgresV0(database, Transactions(database))
        return await _replay(lambda _: store, chosen)


IN_DATABASE: Final = {
    name: exchange for name, exchange in GOLDEN.items() if MEMORY in exchange.setting
}


@pytest.fixture(scope="module")
def in_memory() -> Mapping[str, httpx2.Response]:
    """Replay everything on stores in memory."""
    return anyio.run(_replay, _memory_store, GOLDEN)


@pytest.fixture(scope="module")
def in_postgres(
    postgres_server: EmbeddedPostgres, app_template: str
) -> Generator[Mapping[str, httpx2.Response]]:
    """Replay on PostgreSQL what does not need a special store."""
    with fresh_database(postgres_server, app_template) as dsn:
        yield anyio.run(_replay_on_postgres, dsn, IN_DATABASE)


def test_there_are_seventy_exchanges() -> None:
    assert len(GOLDEN) == 70


def test_a_client_of_the_original_sees_no_difference(
    in_memory: Mapping[str, httpx2.Response],
) -> None:
    with every() as case:
        for name, exchange in GOLDEN.items():
            with case(name):
                check(exchange, in_memory[name])


def test_nor_does_it_when_the_incidents_are_in_postgresql(
    in_postgres: Mapping[str, httpx2.Response],
) -> None:
    with every() as case:
        for name, exchange in IN_DATABASE.items():
            with case(name):
                check(exchange, in_postgres[name])


@pytest.mark.parametrize("answers", ["in_memory", "in_postgres"])
def test_the_list_holds_what_was_started_in_that_order(
    answers: str, request: pytest.FixtureRequest
) -> None:
    replayed = request.getfixturevalue(answers)
    before = takewhile(lambda name: name != "48 list-all", GOLDEN)
    started = [replayed[name].json()["id"] for name in before if replayed[name].status_code == 201]
    listed = [incident["id"] for incident in replayed["48 list-all"].json()]
    assert listed == started
    assert len(started) == 11


def check(exchange: Exchange, answer: httpx2.Response) -> None:
    verdict, _, text = exchange.verdict.partition(" ")
    if answer.status_code >= 400 and "Access-Control-Request-Method" not in dict(exchange.headers):
        _check_error(answer)
    match verdict:
        case "keep":
            _check_kept(exchange, answer)
        case "keep-head":
            assert (answer.status_code, answer.headers.get("location")) == (
                exchange.status,
                exchange.answer_headers["Location"],
            )
        case "prefix":
            assert answer.status_code == exchange.status
            assert answer.json()["message"].startswith(text)
        case "shape":
            assert answer.status_code == exchange.status
            assert _shape(answer.json()) == _shape(json.loads(exchange.body))
        case "change":
            _check_changed(answer, *text.partition(" ")[::2])
        case _:
            raise AssertionError(verdict)


def _check_error(answer: httpx2.Response) -> None:
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    if answer.request.method != "HEAD":
        assert answer.json()["requestId"] == answer.headers["x-request-id"]


def _check_kept(exchange: Exchange, answer: httpx2.Response) -> None:
    assert answer.status_code == exchange.status
    assert answer.headers["content-type"] == exchange.answer_headers["Content-Type"]
    read = partial(
        json.loads, object_pairs_hook=partial(_varying, fixed="three incidents" in exchange.setting)
    )
    expected, got = read(exchange.body), read(answer.text)
    if exchange.status >= 400 and "requestId" not in exchange.body:
        # The original shows it outside of local environments alone.
        expected = [*expected, ("requestId", "UUID")]
    assert got == expected


def _varying(pairs: list[tuple[str, object]], *, fixed: bool) -> list[tuple[str, object]]:
    """Keep the order of keys, and put the shape in place of what differs from run to run."""
    return [
        (key, value if fixed and key != "requestId" else _blank(key, value)) for key, value in pairs
    ]


def _blank(key: str, value: object) -> object:
    text = str(value)
    if key == "id":
        assert UUID(text).version == 4
        return "UUIDv4"
    if key == "start_time":
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d*[1-9])?Z", text)
        return "RFC 3339"
    if key == "uptime":
        assert re.fullmatch(r"\d+s", text)
        return "seconds"
    if key == "requestId":
        UUID(text)
        return "UUID"
    return value


def _shape(value: object) -> object:
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        return [(key, _shape(_blank(key, member))) for key, member in members.items()]
    if isinstance(value, list):
        return [_shape(item) for item in cast("list[object]", value)]
    return type(value)


def _check_changed(answer: httpx2.Response, status: str, message: str) -> None:
    assert answer.status_code == int(status)
    if message:
        told = answer.json()["message"]
        assert told.startswith(message) if message.endswith(":") else told == message
    if answer.status_code == 405:
        assert answer.headers["allow"]
        method, path = answer.request.method, answer.request.url.path
        assert answer.json()["message"] == f"Method '{method}' is not allowed for '{path}'"
    assert "access-control-allow-origin" not in answer.headers
