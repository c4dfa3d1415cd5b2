"""A service for `test_numbers`, whose numbers stand in the file that `NUMBERS_FILE` names."""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from postfacta_core import logs
from postfacta_core.asgi import HardenOptions, harden
from postfacta_core.drain._course import DrainLimits
from postfacta_core.guards.bulkhead import Bulkhead
from postfacta_web.numbers import Numbers

reports = Bulkhead("reports", 10)


async def show(request: Request) -> Response:
    async with reports.block():
        slots = reports.settings()["slots"]
        return JSONResponse({"pid": os.getpid(), "slots": slots}, headers={"connection": "close"})


async def receive(request: Request) -> Response:
    return JSONResponse({"pid": os.getpid(), "bytes": len(await request.body())})


logs.configure(service="numbers")
numbers = Numbers(os.environ["NUMBERS_FILE"])
app = numbers.attach(
    harden(
        Starlette(routes=[Route("/show", show), Route("/receive", receive, methods=["POST"])]),
        service="numbers",
        options=HardenOptions(
            metrics_workers=os.environ["WORKERS_FOLDER"],
            drain=DrainLimits(drain_delay=0, drain_timeout=2),
        ),
        resources=[numbers.running()],
    )
)
