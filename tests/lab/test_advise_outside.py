"""A hardened service under a load that is known: what it is advised is right, and it takes the file as it is."""

from __future__ import annotations

import asyncio
import bisect
import math
import subprocess
import sys
import tomllib
from pathlib import Path
from time import monotonic

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from postfacta_core.asgi import harden
from postfacta_core.telemetry.catalogue import HTTP_BUCKETS
from postfacta_lab.load.gate import percentile
from postfacta_web.numbers import Numbers
from tests.kit.behind import behind_uvicorn

pytestmark = pytest.mark.usefixtures("programs")

MANY = 5050
SLOW = 10  # of them, and so more than one in a thousand
SECONDS = 1.2


async def report(request: Request) -> Response:
    await asyncio.sleep(float(request.query_params.get("seconds", "0")))
    return JSONResponse({})


async def load(url: str) -> list[float]:
    """Ask for all reports, the slow ones first, and a few items; return what the reports took."""
    paths = [f"/reports/7?seconds={SECONDS}"] * SLOW + ["/reports/8"] * (MANY - SLOW)
    paths += ["/items"] * 40
    paths.reverse()
    took: list[float] = []

    async def caller(client: httpx2.AsyncClient) -> None:
        while paths:
            path = paths.pop()
            began = monotonic()
            answer = await client.get(path)
            assert answer.status_code == 200, answer.text
            if path != "/items":
                took.append(monotonic() - began)

    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.gather(*(caller(client) for _ in range(8)))
    return took


def test_a_service_takes_what_it_is_advised_by_its_own_metrics(tmp_path: Path) -> None:
    file = tmp_path / "numbers.toml"
    numbers = Numbers(file)
    web = Starlette(routes=[Route("/reports/{id:int}", report), Route("/items", report)])
    app = numbers.attach(harden(web, service="billing"))
    with behind_uvicorn(app, access_log=False) as url:
        took = asyncio.run(load(url))
        advising = [sys.executable, "-m", "postfacta_lab", "advise", f"{url}/metrics"]
        done = subprocess.run(  # noqa: S603 - our own command
            [*advising, "--toml", str(file)], capture_output=True, text=True, check=True, timeout=60
        )
        advised = tomllib.loads(file.read_text())["routes"]
        timeout = advised["GET /reports/{id}"]["request_timeout"]
        # The service's own time is within the client's, and as long as the handler slept.
        most = percentile(took, 0.999)
        edges = [*HTTP_BUCKETS, math.inf]
        assert edges[bisect.bisect_left(edges, SECONDS)] <= timeout
        assert timeout <= edges[bisect.bisect_left(edges, most)]
        assert f"p99.9 of {MANY:,}" in done.stdout
        assert "too few: 40 of 5,000" in done.stdout
        assert [*advised] == ["GET /reports/{id}"]

        numbers.reread()
        assert numbers.is_valid
        answer = httpx2.get(f"{url}/reports/7?seconds=50", timeout=60)
        assert answer.status_code == 504
