"""What one signal costs, in round trips and bytecodes, which no busy machine moves."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from postfacta_core.asgi._types import Message, Scope
from postfacta_core.deadlines import requests
from postfacta_postgres.guarded import Lease
from tests.app.live import Service, in_process
from tests.app.signals.conftest import ALERTMANAGER, SIGNALS, Body, Headers, item, recorded
from tests.kit.bytecodes import fewest_bytecodes, refusal

STATEMENTS = ["BEGIN", "signal_insert", "COMMIT"]  # the second writes the audit row as well
BACKGROUND = {"revision", "durability", "flags", "read_business", "losses", "ping"}
# An alert takes more: its labels and annotations are read and searched for secrets.
MOST_BYTECODES = {SIGNALS: 14_000, ALERTMANAGER: 15_000}

# Batches that are small enough to be read in the loop's thread, which alone is counted.
SMALL, LARGE = 5, 15
MOST_OF_A_SIGNAL = 1_150


def sender(service: Service, path: str, headers: Headers) -> Callable[[Body], Awaitable[Any]]:
    """Return what sends a body to the application, without a client's own work."""
    sent = {"Host": "localhost", "Content-Type": "application/json", **headers}
    raw = [(name.lower().encode(), text.encode()) for name, text in sent.items()]

    async def send(body: Body) -> list[Message]:
        answers = list[Message]()
        pending = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive() -> Message:
            return pending[0]

        async def keep(message: Message) -> None:
            answers.append(message)

        scope: Scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "path": path,
            "root_path": "", "query_string": b"", "headers": raw, "client": ("127.0.0.1", 50000),
        }  # fmt: skip
        await service.app(scope, receive, keep)
        assert answers[0]["status"] == 200, answers
        return answers

    return send


def bodies(path: str) -> Callable[[int], Body]:
    if path == SIGNALS:
        return lambda number: {"items": [item(id=f"cost-{number}")]}
    alert = recorded("firing")
    return lambda number: (
        alert | {"alerts": [alert["alerts"][0] | {"fingerprint": f"{number:016x}"}]}
    )


@pytest.mark.parametrize("path", [SIGNALS, ALERTMANAGER])
async def test_one_signal_takes_few_round_trips_and_bytecodes(
    shared_app_dsn: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_process(shared_app_dsn) as service:
        headers = await service.machine("signals:write", source=f"cost{len(path)}")
        send = sender(service, path, headers)
        body = bodies(path)
        number = 0
        statements: list[str] = []
        run = Lease.run

        def noted(self: Lease, statement: Any, limit: Any) -> Any:
            statements.append(statement.name)
            return run(self, statement, limit)

        async def one() -> None:
            nonlocal number
            number += 1
            await send(body(number))

        await one()
        with monkeypatch.context() as patched:
            patched.setattr(Lease, "run", noted)
            await one()
        # A request that is counted takes as long as some beats of the service, which are not its own.
        monkeypatch.setattr(requests, "_TICK", 3600.0)
        cost = await fewest_bytecodes(one, runs=20)
    assert [name for name in statements if name not in BACKGROUND] == STATEMENTS
    assert not (why := refusal(cost, MOST_BYTECODES[path])), why


async def test_each_signal_of_a_batch_takes_few_bytecodes(
    shared_app_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_process(shared_app_dsn) as service:
        send = sender(service, SIGNALS, await service.machine("signals:write", source="costbatch"))
        number = 0

        async def costs(size: int) -> int:
            async def batch() -> None:
                nonlocal number
                number += size
                await send({"items": [item(id=f"batch-{number + n}") for n in range(size)]})

            return await fewest_bytecodes(batch, runs=20)

        monkeypatch.setattr(requests, "_TICK", 3600.0)
        few = await costs(SMALL)
        many = await costs(LARGE)
    cost = (many - few) // (LARGE - SMALL)
    assert not (why := refusal(cost, MOST_OF_A_SIGNAL)), why
