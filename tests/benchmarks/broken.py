"""Break the hardened stack as a change might, and let the gate judge it: `python -m tests.benchmarks.broken dearer`."""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks.gate import BUDGET, judge, main, record_nothing, stack
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["BREAKS"]


def _dearer() -> ASGIApp:
    """Serve every second request twice: half as dear again."""
    app, count = stack(), 0

    async def drop(message: Message) -> None:
        pass

    async def twice(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal count
        count += 1
        if count % 2:
            await app({**scope, "state": {}}, receive, drop)
        await app(scope, receive, send)

    return twice


def _cyclic() -> ASGIApp:
    """Let each fiftieth request refer to itself."""
    app, count = stack(), 0

    async def circle(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal count
        count += 1
        if count % 50 == 0:
            scope["scope"] = scope
        await app(scope, receive, send)

    return circle


BREAKS: dict[str, Callable[[], ASGIApp]] = {"dearer": _dearer, "cyclic": _cyclic, "nothing": stack}

if __name__ == "__main__":
    broken = sys.argv[1]
    record_nothing()
    # A unit is worth more on one machine than on another, so what became dearer is judged by what it costs here.
    main(BREAKS[broken], budget=judge(stack).ratio if broken == "dearer" else BUDGET)
