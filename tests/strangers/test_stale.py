"""Services that answer from before while a dependency is away.

A router of FastAPI, an endpoint of Starlette.
"""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.strangers.kit import Environments

SERVICES = {
    "fastapi": """
        from fastapi import APIRouter, Depends, FastAPI, Request
        from fastapi.routing import APIRoute

        WORLD

        class KeptRoute(APIRoute):
            def get_route_handler(self):
                return stale.around(super().get_route_handler(), caller)


        kept = APIRouter(route_class=KeptRoute, prefix="/bills")


        @kept.get("/{number}", dependencies=[Depends(allow_stale)])
        async def bill(number: int) -> dict[str, int]:
            return {"number": await ask(number)}


        web = FastAPI(exception_handlers={ResilienceError: problem_handler})
        web.include_router(kept)
        app = harden(web, service="shop")


        @web.post("/billing/{what}")
        def switch(what: str) -> None:
            state["is_away"] = what == "away"
    """,
    "starlette": """
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import JSONResponse
        from starlette.routing import Route

        WORLD

        async def bill(request: Request) -> JSONResponse:
            number = await ask(request.path_params["number"])
            allow_stale(request)
            return JSONResponse({"number": number})


        async def switch(request: Request) -> JSONResponse:
            state["is_away"] = request.path_params["what"] == "away"
            return JSONResponse(None)


        routes = [
            Route("/bills/{number:int}", stale.around(bill, caller)),
            Route("/billing/{what}", switch, methods=["POST"]),
        ]
        web = Starlette(routes=routes, exception_handlers={ResilienceError: problem_handler})
        app = harden(web, service="shop")
    """,
}
WORLD = """
        from postfacta_web.stale import StaleAnswers, allow_stale
        from postfacta_core import CircuitBreaker, CircuitConfig, ResilienceError
        from postfacta_core.asgi import harden, problem_handler

        state = {"is_away": False}
        breaker = CircuitBreaker("billing", config=CircuitConfig(minimum_number_of_calls=1))
        stale = StaleAnswers("billing", cache="shop")


        def caller(request: Request) -> str | None:
            return request.headers.get("authorization")


        @breaker
        async def ask(number: int) -> int:
            if state["is_away"]:
                raise ConnectionError("billing is away")
            return number
"""


@pytest.mark.parametrize("framework", SERVICES)
def test_a_caller_gets_the_last_answer_while_the_circuit_is_open(
    framework: str, environments: Environments, tmp_path: Path
) -> None:
    environment = environments("fastapi", "uvicorn")
    code = SERVICES[framework].replace("        WORLD\n", WORLD)
    # A connection for each request: the server closes that of the crash.
    single = httpx2.Limits(max_keepalive_connections=0)
    with (
        environment.serve(code, cwd=tmp_path) as served,
        httpx2.Client(base_url=served.url, limits=single, timeout=10) as client,
    ):
        ada, bob = {"authorization": "Bearer ada"}, {"authorization": "Bearer bob"}
        assert client.get("/bills/7", headers=ada).json() == {"number": 7}
        client.post("/billing/away")
        assert client.get("/bills/8", headers=bob).status_code == 500  # it opens the circuit
        old = client.get("/bills/7", headers=ada)
        assert (old.status_code, old.json()) == (200, {"number": 7})
        assert old.headers["cache-status"].startswith("shop; hit; ttl=")
        assert old.headers["cache-control"] == "no-store"
        for url, who in (("/bills/7", bob), ("/bills/7", {}), ("/bills/8", ada)):
            refusal = client.get(url, headers=who)
            assert (refusal.status_code, "age" in refusal.headers) == (503, False)
        page = client.get("/metrics").text
    assert 'postfacta_fallback_answers_total{operation="billing",source="stale"} 1.0' in page
    assert 'postfacta_fallback_answers_total{operation="billing",source="none"} 2.0' in page
