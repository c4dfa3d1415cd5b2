"""The application that `bench_socket` serves, wrapped as `BENCH_VARIANT` says."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.lines import write_to_nowhere
from benchmarks.peers import peers
from benchmarks.variants import sampling
from postfacta_core.asgi import ASGIApp, HardenOptions, Telemetry, harden
from postfacta_core.events import Mode
from postfacta_core.telemetry.tracing import Tracing

__all__ = ["VARIANTS", "app"]


async def _hello(request: Request) -> JSONResponse:
    return JSONResponse({"id": request.path_params["id"], "name": "bench", "ok": True})


_ROUTE: Final = Route("/items/{id}", _hello)


def _bare() -> ASGIApp:
    return Starlette(routes=[_ROUTE])


def _hardened(*, shedding: Mode = Mode.ENFORCE, traced: bool = False) -> ASGIApp:
    telemetry = Telemetry(tracing=Tracing(sampling()) if traced else None)
    return harden(
        _bare(),
        service="bench",
        telemetry=telemetry,
        options=HardenOptions(shedding=shedding, access_lines=None),
    )


def _peers(name: str) -> ASGIApp:
    return peers(lambda *middleware: Starlette(routes=[_ROUTE], middleware=middleware), sampling())[
        name
    ]


VARIANTS: Final[Mapping[str, Callable[[], ASGIApp]]] = {
    "bare": _bare,
    "harden, no shedding": lambda: _hardened(shedding=Mode.OFF),
    "harden": _hardened,
    "harden, SDK at 1 %": lambda: _hardened(traced=True),
    "peers, cheapest": lambda: _peers("peers, cheapest"),
    "peers, popular": lambda: _peers("peers, popular"),
}
"""Each request is logged, by a line of JSON."""

write_to_nowhere()
app: ASGIApp = VARIANTS[os.environ.get("BENCH_VARIANT", "bare")]()
