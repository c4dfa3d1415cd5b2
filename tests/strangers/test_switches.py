"""A service that turns its exports off by a file, and by a provider of OpenFeature, while it runs."""

from __future__ import annotations

from pathlib import Path

import httpx2

from tests.kit.waiting import wait_until
from tests.strangers.kit import Environments

SERVICE = """
    import os

    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from postfacta_web.switches import Switches
    from postfacta_core.asgi import harden

    domain = os.environ.get("FLAG_DOMAIN", "")
    if domain:
        from openfeature import api
        from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

        flag = InMemoryFlag("off", {"on": True, "off": False})
        api.set_provider_and_wait(InMemoryProvider({"exports": flag}), domain)

    switches = Switches(["exports"], file=os.environ.get("SWITCHES_FILE"), domain=domain, every=0.05)


    async def export(request):
        return PlainTextResponse(status_code=200 if switches.is_on("exports") else 503)


    web = Starlette(routes=[Route("/export", export)])
    app = harden(web, service="shop", resources=[switches.running()])
"""


def status(url: str) -> int:
    return httpx2.get(f"{url}/export", timeout=20).status_code


def test_a_file_turns_exports_off_and_on_and_a_wrong_one_does_neither(
    environments: Environments, tmp_path: Path
) -> None:
    (tmp_path / "service").mkdir()
    file = tmp_path / "switches.json"
    environment = {"SWITCHES_FILE": str(file)}
    with environments("starlette", "uvicorn").serve(
        SERVICE, cwd=tmp_path / "service", environment=environment
    ) as served:
        assert status(served.url) == 200
        file.write_text('{"exports": {"on": false, "reason": "INC-12"}}')
        wait_until(lambda: status(served.url) == 503)
        file.write_text('{"export": {"on": true}}')
        wait_until(
            lambda: served.log.count("flags.unreadable") == 2
        )  # and once before there was a file
        assert status(served.url) == 503
        file.write_text("{}")
        wait_until(lambda: status(served.url) == 200)
        assert "Traceback" not in served.log


def test_a_provider_of_openfeature_turns_exports_off(
    environments: Environments, tmp_path: Path
) -> None:
    with environments("starlette", "uvicorn", extras=["flags"]).serve(
        SERVICE, cwd=tmp_path, environment={"FLAG_DOMAIN": "shop"}
    ) as served:
        assert status(served.url) == 503
