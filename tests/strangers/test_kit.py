"""A stranger's environment holds the wheel and nothing of this checkout."""

from __future__ import annotations

from pathlib import Path

import httpx2

from tests.strangers.kit import ROOT, Environments

SERVICE = """
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from postfacta_core.asgi import harden


    async def hello(request):
        return PlainTextResponse("hello")


    app = harden(Starlette(routes=[Route("/hello/{who}", hello)]), service="greeter")
"""


def test_the_core_comes_from_the_wheel(environments: Environments, tmp_path: Path) -> None:
    environment = environments("starlette", "uvicorn")
    done = environment.script("import postfacta_core; print(postfacta_core.__file__)", cwd=tmp_path)
    assert done.stdout.startswith(str(environment.folder)), done.stderr
    assert str(ROOT) not in done.stdout
    assert environment.script("import asyncpg", cwd=tmp_path).returncode == 1


def test_a_service_of_five_lines_is_observed(environments: Environments, tmp_path: Path) -> None:
    with environments("starlette", "uvicorn").serve(SERVICE, cwd=tmp_path) as served:
        answer = httpx2.get(f"{served.url}/hello/you", timeout=10)
        assert (answer.text, bool(answer.headers["x-request-id"])) == ("hello", True)
        metrics = httpx2.get(f"{served.url}/metrics", timeout=10).text
        assert 'http_route="/hello/{who}"' in metrics
