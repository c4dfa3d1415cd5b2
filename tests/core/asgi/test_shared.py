"""What is asked of a part in mid-exchange is safe to ask."""

from __future__ import annotations

from postfacta_core.asgi._kernel import Kernel
from postfacta_core.asgi._types import Receive, Scope, Send
from postfacta_core.context import RequestContext
from postfacta_core.events import ListenerFailed
from postfacta_core.telemetry.exchange import Exchange
from postfacta_core.testing import RecordingObserver


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand for the application."""


def test_a_recorder_that_raises_is_reported_and_the_next_one_is_called() -> None:
    seen: list[Exchange] = []

    def broken(exchange: Exchange) -> None:
        raise ValueError("a crash")

    observer = RecordingObserver()
    exchange = Exchange(RequestContext("request-id", 0.0), "GET", "/")
    Kernel(nothing, observer=observer).tell([broken, seen.append], exchange)
    assert seen == [exchange]
    (failure,) = observer.of(ListenerFailed)
    assert "broken" in failure.policy
