"""Numbers of guards and routes change while a service runs; a file with one wrong changes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from postfacta_core.asgi import HardenOptions, RouteOptions, harden
from postfacta_core.guards import (
    Bulkhead,
    CircuitBreaker,
    Fallback,
    Guard,
    Hedge,
    RateLimiter,
    Retry,
    Timeout,
    registry,
)
from postfacta_core.testing import call_asgi
from postfacta_web.numbers import Numbers
from tests.kit.every import every
from tests.kit.lifespan import running
from tests.kit.waiting import until


async def receive(request: Request) -> Response:
    return PlainTextResponse(f"{len(await request.body())}")


PATHS = ("/items", "/import", "/export")
ROUTES = [Route(path, receive, methods=["POST"]) for path in PATHS]
OPTIONS = HardenOptions(
    routes=[RouteOptions(routes=["POST /import", "POST /export"], request_timeout=120.0)]
)
RIGHT: dict[str, dict[str, object]] = {
    "guards.retry.billing": {"attempts": 2, "max_wait": 1.0},
    "guards.bulkhead.billing": {"slots": 2, "max_waiting": 3, "max_wait": 0.5},
    "guards.rate_limiter.billing": {"rates": "5/second", "max_wait": 2.0},
    "guards.timeout.billing": {"seconds": 1.5},
    "guards.hedge.billing": {"delay": "p90"},
    "guards.breaker.billing": {"failure_rate_threshold": 0.25, "sliding_window_size": 50},
    'routes."*"': {"request_timeout": 10.0, "max_body_bytes": 1000},
    'routes."POST /import"': {"max_body_bytes": 4, "request_timeout": 60.0},
    'routes."GET /events"': {"heartbeat": 15.0, "stream_idle": 60.0, "stream_timeout": math.inf},
}


@pytest.fixture(autouse=True)
def guards() -> Generator[list[Guard]]:
    registry.clear()
    yield [
        Retry("billing"),
        Bulkhead("billing", 10),
        RateLimiter("billing", "10/second"),
        Timeout(5.0, name="billing"),
        Hedge("billing", delay=0.1),
        CircuitBreaker("billing"),
        Fallback("billing", otherwise=None),
    ]
    registry.clear()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "numbers.toml"


@pytest.fixture
def numbers(file: Path) -> Numbers:
    numbers = Numbers(file, every=0.01)
    numbers.attach(harden(Starlette(routes=ROUTES), service="billing", options=OPTIONS))
    return numbers


def put(file: Path, tables: dict[str, dict[str, object]]) -> None:
    """Put another file in the place of one, as orchestrators do."""
    lines: list[str] = []
    for table, values in tables.items():
        lines.append(f"[{table}]")
        for name, value in values.items():
            lines.append(f"{name} = {value if value == math.inf else json.dumps(value)}")
    new = file.with_name("new")
    new.write_text("\n".join(lines))
    new.replace(file)


def state(numbers: Numbers) -> tuple[list[dict[str, object]], list[tuple[float, int]]]:
    app = numbers._app  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - what it resolves
    assert app is not None
    find = app.find
    assert find is not None
    found = [find("POST", path) for path in PATHS]
    rules = [(one.timeout, one.limits.max_body_bytes) for one in found]
    return [dict(guard.settings()) for guard in registry], rules


def counts(numbers: Numbers) -> dict[str, float]:
    return {sample.labels[0]: sample.value for sample in numbers.collect()}


def test_all_numbers_of_a_file_are_used_and_given_back(numbers: Numbers, file: Path) -> None:
    before = state(numbers)
    put(file, RIGHT)
    numbers.reread()
    assert numbers.is_valid
    settings = {guard.kind: guard.settings() for guard in registry}
    for table, values in RIGHT.items():
        kind = table.split(".")[1]
        if kind in settings and kind not in {"rate_limiter", "breaker"}:
            assert settings[kind].items() >= values.items()
    breaker = registry.find("breaker", "billing")
    assert isinstance(breaker, CircuitBreaker)
    assert breaker.config.sliding_window_size == 50
    assert settings["rate_limiter"]["rates"] == "5/1s"
    assert state(numbers)[1] == [(10.0, 1000), (60.0, 4), (120.0, 1000)]
    assert counts(numbers) == {"changed": len(RIGHT), "refused": 0}
    numbers.reread()
    assert counts(numbers)["changed"] == len(RIGHT)
    put(file, {})
    numbers.reread()
    assert state(numbers) == before
    assert counts(numbers) == {"changed": 2 * len(RIGHT), "refused": 0}


WRONG: list[tuple[str, str, object]] = [
    (table, name, value)
    for table, values in RIGHT.items()
    for name in values
    for value in (-1, "often", True, [1])
]


def test_one_wrong_number_changes_nothing(
    numbers: Numbers, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = state(numbers)
    other: dict[str, dict[str, object]] = {"guards.retry.billing": {"attempts": 7}}
    with every() as case:
        for table, name, value in WRONG:
            with case(f"{table} {name} {value}"):
                caplog.clear()
                put(file, {**other, table: {**RIGHT[table], name: value}})
                numbers.reread()
                numbers.reread()
                assert not numbers.is_valid
                assert state(numbers) == before
                (record,) = caplog.records
                reason = str(vars(record)["reason"])
                assert record.message == "numbers.refused"
                assert reason.startswith(f"{file}: {table.split('.')[0]}")
                assert name in reason
                assert " must be " in reason


REFUSED = {
    "": "No such file or directory",
    "guards": "no TOML: Expected '=' after a key in a key/value pair (at end of document)",
    "guard = 1": "guard: unknown; known are guards, routes",
    "guards = 1": "guards must be a table, not 1",
    "[guards]\nretry = 1": "guards.retry must be a table, not 1",
    "[guards.retry]\nbilling = 1": "guards.retry.billing must be a table, not 1",
    "[guards.retry.biling]": "guards.retry.biling: there is no such guard; there are: breaker",
    "[guards.retry.billing]\nself = 1": "Retry.self must be one of attempts, max_wait, not 1",
    "[guards.retry.billing]\nwhere = 1": "Retry.where must be one of attempts, max_wait, not 1",
    "[guards.retry.billing]\ncheck = 1": "Retry.check must be one of attempts, max_wait, not 1",
    "[guards.fallback.billing]\nmax_age = 1": "Fallback.max_age must be one of none, not 1",
    "[guards.retry.billing]\nname = 'x'": "Retry.name must be one of attempts, max_wait, not 'x'",
    "[routes.'items']\nrequest_timeout = 1": "routes: items: RouteOptions.routes must be a path",
    "[routes.'/items']\nwaits = true": "routes: /items: a number must be one of request_timeout",
    "[routes.'*']\nheartbeat = 5": "routes: a number must be one of request_timeout",
    "x = '" + "x" * 1_000_000 + "'": "more than 1,000,000 bytes",
}


def complaint_of(numbers: Numbers) -> str:
    """Return what it logs."""
    return numbers._complaint  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - a subject


def test_what_is_no_file_of_numbers_changes_nothing(numbers: Numbers, file: Path) -> None:
    before = state(numbers)
    with every() as case:
        for text, sentence in REFUSED.items():
            with case(text[:40]):
                file.unlink(missing_ok=True)
                if text:
                    file.write_text(text)
                numbers.reread()
                complaint = complaint_of(numbers)
                assert sentence in complaint
                assert str(file) in complaint
                assert state(numbers) == before
    file.write_bytes(b"\xff")
    numbers.reread()
    assert "no TOML" in complaint_of(numbers)
    assert counts(numbers) == {"changed": 0, "refused": len(REFUSED) + 1}


def test_without_a_service_only_guards_have_numbers(file: Path) -> None:
    numbers = Numbers(file)
    put(file, {'routes."/items"': {"request_timeout": 5.0}})
    numbers.reread()
    assert counts(numbers) == {"changed": 0, "refused": 1}
    put(file, {"guards.retry.billing": {"attempts": 2}})
    numbers.reread()
    assert counts(numbers) == {"changed": 1, "refused": 1}
    assert registry.find("retry", "billing").settings()["attempts"] == 2


def test_two_readings_are_within_five_seconds(file: Path) -> None:
    assert 2 * Numbers(file).every < 5


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_running_service_uses_a_new_file(file: Path) -> None:
    numbers = Numbers(file, every=0.01)
    put(file, {'routes."*"': {"max_body_bytes": 4}})
    app = numbers.attach(
        harden(Starlette(routes=ROUTES), service="billing", resources=[numbers.running()])
    )
    async with running(app):

        async def status() -> int:
            return (await call_asgi(app, "POST", "/items", body=b"12345")).status

        assert await status() == 413
        put(file, {'routes."*"': {"max_body_bytes": 5}})
        await until(lambda: counts(numbers)["changed"] == 2)
        assert await status() == 200


def test_settings_of_its_own_that_make_no_sense_are_refused(file: Path) -> None:
    wrong: Any = 7
    with pytest.raises(ValueError, match=r"Numbers.file must be a path, not 7"):
        Numbers(wrong)
    with pytest.raises(ValueError, match=r"Numbers.every must be"):
        Numbers(file, every=0)
    with pytest.raises(ValueError, match=r"Numbers.attach must be"):
        Numbers(file).attach(wrong)


def test_a_guard_that_has_no_numbers_may_stand_in_the_file(numbers: Numbers, file: Path) -> None:
    before = state(numbers)
    file.write_text("[guards.fallback.billing]\n")
    numbers.reread()
    assert numbers.is_valid
    assert state(numbers) == before
