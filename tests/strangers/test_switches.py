"""A service that turns its exports off by a provider of OpenFeature."""

from __future__ import annotations

from pathlib import Path

import httpx2

from tests.strangers.kit import Environments

SERVICE = """
    from openfeature import api
    from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from postfacta_web.switches import Switches
    from postfacta_core.asgi import harden

    flag = InMemoryFlag("off", {"on": True, "off": False})
    api.set_provider_and_wait(InMemoryProvider({"exports": flag}), "shop")
    switches = Switches(["exports"], domain="shop")


    async def export(request):
        return PlainTextResponse(status_code=200 if switches.is_on("exports") else 503)


    web = Starlette(routes=[Route("/export", export)])
    app = harden(web, service="shop", resources=[switches.running()])
"""


def test_a_provider_of_openfeature_turns_exports_off(
    environments: Environments, tmp_path: Path
) -> None:
    environment = environments("starlette", "uvicorn", extras=["flags"])
    with environment.serve(SERVICE, cwd=tmp_path) as served:
        assert httpx2.get(f"{served.url}/export", timeout=20).status_code == 503
