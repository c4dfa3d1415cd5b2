"""A service that verifies the tokens of an issuer, which goes away."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import jwt

from postfacta_core.clock import WALL
from tests.kit.keys import Key, ec_key, rsa_key
from tests.strangers.kit import Environments, Served

SERVICE = """
    import os

    import httpx
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Route

    from postfacta_web.jwks import Jwks
    from postfacta_core import ResilienceError
    from postfacta_core.asgi import harden, problem_handler

    client = httpx.AsyncClient()


    async def fetch():
        response = await client.get(os.environ["KEYS"])
        return response.raise_for_status().json()


    keys = Jwks(fetch, name="login")


    async def who(request):
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        claims = await keys.verify(token, issuer="https://login.example.org/", audience="shop")
        return PlainTextResponse("", 401) if claims is None else JSONResponse({"sub": claims["sub"]})


    api = Starlette(routes=[Route("/who", who)], exception_handlers={ResilienceError: problem_handler})
    app = harden(api, service="shop", resources=[client, keys.running()])
"""
ES256, RS256 = ec_key("ec"), rsa_key("rsa")


@contextmanager
def issuer() -> Generator[str]:
    """Publish the keys until the block ends; give the address."""
    published = json.dumps({"keys": [ES256.public, RS256.public]}).encode()

    class Publish(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(published)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base
            """Write nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Publish) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/keys"
        finally:
            server.shutdown()
            thread.join()


def token(by: Key, **claims: object) -> str:
    said = {
        "iss": "https://login.example.org/",
        "aud": "shop",
        "sub": "ada",
        "exp": WALL() + 300,
    } | claims
    return jwt.encode(said, by.private, by.algorithm, headers={"kid": by.kid})


def ask(served: Served, token: str) -> httpx2.Response:
    return httpx2.get(f"{served.url}/who", headers={"authorization": f"Bearer {token}"}, timeout=20)


def test_a_valid_token_is_accepted_also_while_its_issuer_is_away(
    environments: Environments, tmp_path: Path
) -> None:
    environment = environments("starlette", "uvicorn", "httpx", extras=["jwt"])
    with ExitStack() as stack:
        keys = {"KEYS": stack.enter_context(issuer())}
        with environment.serve(SERVICE, cwd=tmp_path, environment=keys) as served:
            for by in (ES256, RS256):
                assert ask(served, token(by)).json() == {"sub": "ada"}
            for forged in (token(ec_key("ec")), token(ES256, aud="bank"), "x"):
                assert ask(served, forged).status_code == 401
            stack.close()
            assert ask(served, token(ES256)).json() == {"sub": "ada"}
    with environment.serve(SERVICE, cwd=tmp_path, environment=keys) as served:
        answer = ask(served, token(ES256))
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert "jwks.failed" in served.log
        assert "Traceback" not in served.log
