"""Serve PostFacta as a build with a fault, which whatever judges deployments must find.

    python -m chaos.builds FAULT serve --port 8081

The fault stands where code of the service would: inside of routing and of everything that observes
requests.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Final

import anyio
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from postfacta_app import app as application
from postfacta_app.__main__ import main as run
from postfacta_app.web.routes import build_routes

__all__ = ["FAULTS", "main"]

_Fault = Callable[[int], Awaitable[None]]
_FAILS_EACH: Final = 5
_SLOW: Final = 0.7  # seconds
_LEAK: Final = 4_000_000  # bytes a request
_kept: list[bytearray] = []


async def _fail(number: int) -> None:
    if number % _FAILS_EACH == 0:
        raise RuntimeError("the fault of this build")


async def _wait(_: int) -> None:
    await anyio.sleep(_SLOW)


async def _leak(_: int) -> None:
    _kept.append(bytearray(b"x") * _LEAK)


FAULTS: Final[dict[str, _Fault]] = {"errors": _fail, "slow": _wait, "leaking": _leak}
"""What happens before a request is handled, by its number.

Two faults are others: `unready` needs tables of the future, `bare` sends no security headers.
"""


def main(words: Sequence[str]) -> int:
    """Run a command of the service with the fault in it; return its exit code."""
    fault, *rest = words
    constants = {"unready": ("HEAD", "9999"), "bare": ("_HEADERS", ())}
    if fault in constants:
        setattr(application, *constants[fault])
    else:
        setattr(application, "build_routes", partial(_broken, build_routes, FAULTS[fault]))  # noqa: B010 - likewise
    return run(rest)


def _broken(
    make: Callable[..., Sequence[Route]],
    fault: _Fault,
    *args: object,
    **given: object,
) -> Sequence[Route]:
    routes = make(*args, **given)
    numbers = count(1)
    for route in routes:
        if not route.path.startswith("/healthz"):
            route.app = _before(route.app, fault, numbers)
    return routes


def _before(app: ASGIApp, fault: _Fault, numbers: Iterator[int]) -> ASGIApp:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        await fault(next(numbers))
        await app(scope, receive, send)

    return call


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
