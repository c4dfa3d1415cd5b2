"""The peers' stack at its best does what it is counted for."""

from __future__ import annotations

import sys

import pytest
from starlette.testclient import TestClient

from benchmarks.bench_asgi import maker
from benchmarks.peers_best import best, structlog_line

PATH = "/items/17"


def test_the_plain_stack_has_an_id_headers_and_a_line() -> None:
    lines: list[tuple[str, dict[str, object]]] = []

    def write(event: str, **fields: object) -> None:
        lines.append((event, fields))

    client = TestClient(best(maker(), write))
    answer = client.get(PATH, headers={"x-request-id": "mine"})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in answer.headers
    ((event, fields),) = lines
    duration = fields.pop("duration_ms")
    assert isinstance(duration, float)
    assert duration > 0
    assert event == "request"
    assert fields == {"request_id": "mine", "method": "GET", "path": PATH, "status": 200}


def test_the_stack_with_rates_refuses_and_lets_an_origin_read() -> None:
    client = TestClient(best(maker(), lambda *_, **__: None, rate="1/hour"))
    first, second = (client.get(PATH, headers={"origin": "https://app.example"}) for _ in "12")
    assert (first.status_code, second.status_code) == (200, 429)
    assert first.headers["ratelimit-remaining"] == "0"
    assert second.headers["access-control-allow-origin"] == "https://app.example"


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "structlog", None)
    with pytest.raises(RuntimeError, match=r"needs structlog and orjson: pip install --target"):
        structlog_line()
