"""A session of aiohttp is guarded by a middleware, with the real package and a real server."""

from __future__ import annotations

import json
from pathlib import Path

from tests.strangers.kit import Environments

SCRIPT = """
    import asyncio
    import json

    import aiohttp
    from aiohttp import web

    from postfacta_adapters.httpx import Outgoing
    from postfacta_adapters.workers import Worker
    from postfacta_core import Bulkhead, CircuitBreaker, CircuitConfig, CircuitOpenError
    from postfacta_core import Retry, Timeout
    from postfacta_core.clock import MONOTONIC
    from postfacta_core.context import RequestContext, bind_request, release_request

    seen = []


    async def answer(request):
        seen.append((request.method, {name.lower(): value for name, value in request.headers.items()}, await request.read()))
        what = request.match_info["what"]
        if what == "slow":
            await asyncio.sleep(60)
        if what == "busy":
            return web.Response(status=429 if len(seen) == 1 else 200, headers={"Retry-After": "0"})
        if what == "moved":
            raise web.HTTPFound("/200")
        return web.Response(status=int(what), text="{}")


    async def pieces():
        yield b"x"


    async def main():
        app = web.Application()
        app.add_routes([web.route("*", "/{what}", answer)])
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = "http://127.0.0.1:%d" % runner.addresses[0][1]
        results = {}

        async def ask(name, outgoing, what, method="GET", **options):
            seen.clear()
            async with aiohttp.ClientSession(middlewares=[outgoing.middleware]) as session:
                try:
                    async with session.request(method, f"{url}/{what}", **options) as response:
                        text = await response.text()
                        results[name] = [response.status, len(seen), [body.decode() for _, _, body in seen]]
                except aiohttp.ClientError as error:
                    classes = [kind.__name__ for kind in type(error).__mro__]
                    results[name] = [str(error), len(seen), classes]

        guarded = Outgoing("billing", Retry("billing"), Bulkhead("billing", 1), Timeout(30))
        await ask("fine", guarded, "200")
        await ask("again", guarded, "500")
        await ask("once", guarded, "500", "POST", data=b"x")
        await ask("refused", guarded, "busy", "POST", data=b"x")
        await ask("twice", guarded, "500", "PUT", data=b"x")
        await ask("stream", guarded, "500", "PUT", data=pieces())
        await ask("hops", guarded, "moved")
        url, real = "http://127.0.0.1:1", url
        tries = []
        unsent = Outgoing("billing", Retry("unsent", attempts=2), observer=tries.append)
        await ask("unsent", unsent, "200", "POST", data=b"x")
        results["tries"] = len(tries)
        url = real
        circuit = CircuitBreaker("billing", config=CircuitConfig(minimum_number_of_calls=1))
        await ask("failed", Outgoing("billing", circuit), "500")
        await ask("open", Outgoing("billing", circuit), "500")
        worker = Worker("billing")
        # A context that nothing ends: a job ends the call before its wait does.
        request = RequestContext("late", MONOTONIC(), MONOTONIC)
        request.deadline = request.started + 0.3
        token = bind_request(request)
        await ask("late", Outgoing("billing"), "slow")
        release_request(token)
        try:
            await ask("bounded", Outgoing("billing", first=1.0), "200")
        except TypeError as error:
            results["bounded"] = str(error)
        try:
            async with worker.job("ask", timeout=30, job_id="job-7"):
                await ask("headers", Outgoing("billing"), "200")
                results["headers"] = sorted(name for name in seen[0][1] if name.startswith("x-"))
        finally:
            await runner.cleanup()
        print(json.dumps(results))


    asyncio.run(main())
"""


def test_a_session_of_aiohttp_is_guarded(environments: Environments, tmp_path: Path) -> None:
    environment = environments("aiohttp==3.14.5")
    done = environment.script(SCRIPT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["fine"] == [200, 1, [""]]
    assert results["again"] == [500, 3, ["", "", ""]]
    assert results["once"] == [500, 1, ["x"]]
    assert results["refused"] == [200, 2, ["x", "x"]]
    assert results["twice"] == [500, 3, ["x", "x", "x"]]
    assert results["stream"] == [500, 1, ["x"]]
    assert results["hops"][:2] == [200, 2]
    assert ("ClientConnectorError" in results["unsent"][2], results["tries"]) == (True, 2)
    assert results["failed"] == [500, 1, [""]]
    assert {"CircuitOpenError", "ClientError"} <= {*results["open"][2]}
    assert results["open"][1] == 0
    assert {"DeadlineExceededError", "ServerTimeoutError"} <= {*results["late"][2]}
    assert "leave out first, idle and counts" in results["bounded"]
    assert {"x-request-id", "x-request-timeout", "x-priority"} <= {*results["headers"]}
