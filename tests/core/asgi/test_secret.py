"""A secret is known by itself, or as one of those that hold at this moment."""

from __future__ import annotations

from postfacta_core.asgi import HardenOptions
from postfacta_core.asgi._settings import Secret, knows
from postfacta_core.asgi._types import Receive, Scope, Send
from postfacta_core.asgi.metrics import MetricsEndpoint
from postfacta_core.telemetry.metrics import Metrics
from postfacta_core.testing import call_asgi
from tests.kit.every import every


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("it answers by itself")


def several() -> list[str]:
    return ["next", "former"]


def test_what_holds_is_known() -> None:
    cases: list[tuple[Secret, bytes, bool]] = [
        ("one", b"one", True),
        ("one", b"two", False),
        ("", b"", False),
        ("sch\u00f6n", "sch\u00f6n".encode(), True),
        (several, b"next", True),
        (several, b"former", True),
        (several, b"other", False),
        (list, b"", False),
        (lambda: [""], b"", False),
    ]
    with every() as case:
        for secret, given, known in cases:
            with case(secret, given, known):
                assert knows(secret, given) is known


async def test_a_token_that_is_replaced_holds_at_once() -> None:
    held = ["former"]
    app = MetricsEndpoint(nothing, Metrics(), HardenOptions(metrics_token=lambda: held))

    async def status(token: str) -> int:
        return (
            await call_asgi(app, path="/metrics", headers=[("authorization", f"Bearer {token}")])
        ).status

    assert [await status(token) for token in ("former", "next")] == [200, 401]
    held[:] = ["next", "former"]
    assert [await status(token) for token in ("former", "next")] == [200, 200]
    held[:] = []
    assert [await status(token) for token in ("former", "next", "")] == [401, 401, 401]
