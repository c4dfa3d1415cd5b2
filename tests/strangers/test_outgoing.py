"""A service and a script that call another service through a guarded client of httpx or httpx2."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.strangers.kit import Environments

SERVICE = """
    import asyncio

    import CLIENT as http
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
    from starlette.routing import Route

    from postfacta_adapters.httpx import Outgoing
    from postfacta_core import Bulkhead, CircuitBreaker, Retry, Timeout
    from postfacta_core.asgi import harden

    billing = Outgoing(
        "billing", Timeout(3), Retry("billing"), CircuitBreaker("billing"), Bulkhead("billing", 1), Timeout(1)
    )
    client = http.AsyncClient(transport=billing.transport(http.AsyncHTTPTransport()), follow_redirects=True)
    seen = []


    async def ask(request):
        url = f"http://{request.headers['host']}/billing/{request.path_params['what']}"
        answer = await client.request(request.query_params.get("method", "GET"), url, content=b"")
        return JSONResponse({"status": answer.status_code, "text": answer.text, "sent": len(seen)})


    async def stream(request):
        url = f"http://{request.headers['host']}/billing/pieces"
        async with client.stream("GET", url) as first:
            second = await client.get(url)  # the only slot is free: the first has its head
            return PlainTextResponse((await first.aread()).decode() + second.text)


    async def upstream(request):
        seen.append(request.headers)
        what = request.path_params["what"]
        if what == "moved":
            return PlainTextResponse("", 302, headers={"location": "/billing/bill"})
        if what == "pieces":
            return StreamingResponse(pieces())
        if what == "busy" and len(seen) < 2:
            return PlainTextResponse("busy", 503, headers={"retry-after": "0"})
        if what == "broken":
            return PlainTextResponse("broken", 500)
        if what == "slow":
            await asyncio.sleep(5)
        return PlainTextResponse(f"{what} {'x-request-timeout' in request.headers}")


    async def pieces():
        for _ in range(3):
            yield b"piece "
            await asyncio.sleep(0.05)


    async def forget(request):
        seen.clear()
        return PlainTextResponse("")


    app = harden(
        Starlette(
            routes=[
                Route("/ask/{what}", ask),
                Route("/stream", stream),
                Route("/forget", forget),
                Route("/billing/{what}", upstream, methods=["GET", "POST"]),
            ]
        ),
        service="shop",
    )
"""
SCRIPT = """
    import CLIENT as http

    from postfacta_adapters.httpx import Outgoing
    from postfacta_core import CircuitBreaker, CircuitConfig, CircuitOpenError, Retry

    breaker = CircuitBreaker("billing", config=CircuitConfig(minimum_number_of_calls=2))
    billing = Outgoing("billing", breaker, Retry("billing", attempts=2))
    with http.Client(transport=billing.transport(http.HTTPTransport())) as client:
        try:
            for _ in range(3):
                print(client.get("URL/billing/broken").status_code)
        except CircuitOpenError as error:
            print("open", error.policy)
"""


@pytest.mark.parametrize("client", ["httpx", "httpx2"])
def test_every_request_of_a_client_is_guarded(
    client: str, environments: Environments, tmp_path: Path
) -> None:
    environment = environments("starlette", "uvicorn", client)
    with environment.serve(SERVICE.replace("CLIENT", client), cwd=tmp_path) as served:

        def ask(what: str, method: str = "GET") -> tuple[int, str, int]:
            httpx2.get(f"{served.url}/forget", timeout=10)
            answer = httpx2.get(f"{served.url}/ask/{what}", params={"method": method}, timeout=10)
            return (
                tuple(answer.json().values())
                if answer.status_code == 200
                else (answer.status_code, "", 0)
            )

        assert ask("bill") == (200, "bill True", 1)
        assert ask("busy", "POST") == (200, "busy True", 2)
        assert ask("moved") == (200, "bill True", 2)
        assert ask("broken") == (500, "broken", 3)
        assert ask("broken", "POST") == (500, "broken", 1)
        assert ask("slow")[0] in {500, 504}
        assert httpx2.get(f"{served.url}/stream", timeout=10).text == "piece " * 6
        page = httpx2.get(f"{served.url}/metrics", timeout=10).text
        for line in (
            "http_client_request_duration_seconds_count{",
            "postfacta_retry_attempts_total{",
        ):
            assert line in page
        script = SCRIPT.replace("CLIENT", client).replace("URL", served.url)
        done = environment.script(script, cwd=tmp_path)
        assert done.stdout.split() == ["500", "500", "open", "billing"], done.stderr
