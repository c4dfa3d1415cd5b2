"""A service for `test_workers`, whose workers share their metrics in the folder that `WORKERS_FOLDER` names."""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from postfacta_core import logs
from postfacta_core.asgi import HardenOptions, harden
from postfacta_core.drain._course import DrainLimits


async def pid(request: Request) -> Response:
    return PlainTextResponse(f"{os.getpid()}", headers={"connection": "close"})


logs.configure(service="workers")
app = harden(
    Starlette(routes=[Route("/pid", pid)]),
    service="workers",
    options=HardenOptions(
        metrics_workers=os.environ["WORKERS_FOLDER"],
        drain=DrainLimits(drain_delay=0, drain_timeout=2),
    ),
)
