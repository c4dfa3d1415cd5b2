"""The operator lists the guards, and changes what may be changed, if they are the operator."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

import pytest

from postfacta_core import Bulkhead, CircuitBreaker, CircuitOpenError, Fallback, Retry, Timeout
from postfacta_core.asgi.operator import OperatorEndpoint
from postfacta_core.events import Mode
from postfacta_core.testing import call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from tests.kit.every import every

LOCAL: Mapping[str, Any] = {"scope": {"client": ("127.0.0.1", 5000)}}
TOKEN = "a long random text"  # noqa: S105 - it opens nothing
KNOWN = ("Authorization", f"Bearer {TOKEN}")


async def get(app: OperatorEndpoint, header: tuple[str, str] = KNOWN) -> AsgiResponse:
    return await call_asgi(app, "GET", "/", headers=[header])


async def post(app: OperatorEndpoint, asked: object) -> AsgiResponse:
    return await call_asgi(
        app,
        "POST",
        "/",
        headers=[KNOWN],
        body=asked if isinstance(asked, bytes) else json.dumps(asked).encode(),
        **LOCAL,
    )


async def test_all_guards_are_listed_with_settings_and_status() -> None:
    _kept = Bulkhead("reports", 4), Retry("billing"), Timeout(2.0), CircuitBreaker("billing")
    response = await get(OperatorEndpoint(token=TOKEN))
    assert (response.status, response.header("cache-control")) == (200, "no-store")
    listed = json.loads(response.body)["guards"]
    assert [(each["kind"], each["name"]) for each in listed] == [
        ("breaker", "billing"),
        ("bulkhead", "reports"),
        ("retry", "billing"),
    ]
    assert listed[1]["settings"] == {
        "slots": 4,
        "max_waiting": 0,
        "max_wait": 1.0,
        "lends": False,
        "mode": "enforce",
    }
    assert listed[1]["status"] == {"used": 0, "waiting": 0}
    head = await call_asgi(OperatorEndpoint(token=TOKEN), "HEAD", "/", headers=[KNOWN])
    assert (head.status, head.body) == (200, b"")


async def test_a_circuit_is_forced_open_and_reset_and_that_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    breaker, app = CircuitBreaker("billing"), OperatorEndpoint(token=TOKEN)
    asked = {"kind": "breaker", "name": "billing", "action": "force_open"}
    response = await post(app, asked)
    assert (response.status, json.loads(response.body)["status"]["state"]) == (200, "forced_open")
    with pytest.raises(CircuitOpenError):
        breaker.call_sync(str)
    (line,) = [record for record in caplog.records if record.message == "operator.changed"]
    assert (line.__dict__["client_address"], json.loads(line.__dict__["change"])) == (
        "127.0.0.1",
        asked,
    )
    await post(app, {**asked, "action": "reset"})
    assert breaker.call_sync(str) == ""


async def test_a_mode_a_fallback_and_a_log_level_are_changed() -> None:
    retry, fallback, app = (
        Retry("billing"),
        Fallback("prices", key=str),
        OperatorEndpoint(token=TOKEN),
    )
    fallback.call_sync(str, 7)
    assert (await post(app, {"kind": "retry", "name": "billing", "mode": "shadow"})).status == 200
    assert (
        await post(app, {"kind": "fallback", "name": "prices", "action": "clear"})
    ).status == 200
    assert (await post(app, {"logger": "postfacta.test", "level": "DEBUG"})).status == 200
    assert (retry.mode, fallback.status()) == (Mode.SHADOW, {"kept": 0})
    assert logging.getLogger("postfacta.test").level == logging.DEBUG


async def test_what_makes_no_sense_changes_nothing() -> None:
    breaker, app = CircuitBreaker("billing"), OperatorEndpoint(token=TOKEN)
    of = {"kind": "breaker", "name": "billing"}
    cases: list[tuple[object, int]] = [
        (b"{", 422),
        (b"[]", 422),
        (b"\xff", 422),
        (b"[" * 5000, 422),
        ({}, 422),
        ({**of, "action": "__init__"}, 422),
        ({**of, "action": "open", "mode": "off"}, 422),
        ({**of, "mode": "banana"}, 422),
        ({**of, "mode": 3}, 422),
        ({"kind": "breaker", "name": "mail", "action": "open"}, 404),
        ({"logger": "postfacta", "level": "LOUD"}, 422),
    ]
    with every() as case:
        for asked, status in cases:
            with case(asked):
                response = await post(app, asked)
                assert (response.status, list(json.loads(response.body))) == (status, ["detail"])
    assert (breaker.mode, breaker.status()["state"]) == (Mode.ENFORCE, "closed")


def test_an_endpoint_without_a_token_must_be_declared_local() -> None:
    with pytest.raises(
        ValueError, match=r"OperatorEndpoint\.token must be set; or local=True, if no proxy"
    ):
        OperatorEndpoint()


async def test_without_a_token_only_this_machine_is_served() -> None:
    app, host = OperatorEndpoint(local=True), ("Host", "localhost:8080")
    with every() as case:
        for name, address in (
            (host[1], "127.0.0.1"),
            ("LOCALHOST", "127.0.0.2"),
            ("[::1]:8080", "::1"),
        ):
            with case(name):
                known = await call_asgi(
                    app, headers=[("Host", name)], scope={"client": (address, 5)}
                )
                assert known.status == 200
        for client in (("10.0.0.7", 5), ("somewhere", 5), None):
            with case(client):
                assert (
                    await call_asgi(app, headers=[host], scope={"client": client})
                ).status == 401
        for header in (
            ("X-Forwarded-For", "10.0.0.7"),
            ("Via", "1.1 proxy"),
            ("Host", "localhost.evil.example"),
        ):
            with case(header):
                assert (await call_asgi(app, headers=[host, header], **LOCAL)).status == 401
        assert (await call_asgi(app, **LOCAL)).status == 401  # It has no Host.


async def test_without_a_token_a_page_of_another_site_changes_nothing() -> None:
    retry, app, host = Retry("billing"), OperatorEndpoint(local=True), ("Host", "localhost")
    body = b'{"kind": "retry", "name": "billing", "mode": "off"}'
    for headers in ([host], [host, ("Content-Type", "text/plain;application/json")]):
        form = await call_asgi(app, "POST", "/", headers=headers, body=body, **LOCAL)
        assert (form.status, retry.mode) == (415, Mode.ENFORCE)
    json_type = ("Content-Type", "Application/JSON; charset=utf-8")
    assert (
        await call_asgi(app, "POST", "/", headers=[host, json_type], body=body, **LOCAL)
    ).status == 200
    assert retry.mode is Mode.OFF


async def test_with_a_token_it_alone_counts() -> None:
    app = OperatorEndpoint(token=lambda: ["new", "old"])
    for token in ("new", "old"):
        assert (await get(app, ("Authorization", f"bearer {token}"))).status == 200
    for header in (
        ("Authorization", "Bearer older"),
        ("Authorization", "Basic new"),
        ("X-Token", "new"),
    ):
        refused = await get(app, header)
        assert (refused.status, refused.header("www-authenticate")) == (401, "Bearer")


async def test_another_method_and_another_protocol_are_refused() -> None:
    app = OperatorEndpoint(token=TOKEN)
    refused = await call_asgi(app, "DELETE", "/", headers=[KNOWN])
    assert (refused.status, refused.header("allow")) == (405, "GET, HEAD, POST")
    with pytest.raises(TypeError, match="serves HTTP, not websocket"):
        await app({"type": "websocket"}, None, None)  # type: ignore[arg-type]


async def test_a_bound_without_end_is_no_number_of_json() -> None:
    def refuse(name: str) -> None:
        raise ValueError(name)

    _kept = Fallback("prices", otherwise=0, max_age=math.inf)
    response = await get(OperatorEndpoint(token=TOKEN))
    (listed,) = json.loads(response.body, parse_constant=refuse)["guards"]
    assert listed["settings"]["max_age"] == "inf"
