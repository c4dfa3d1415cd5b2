"""The page on tokens runs as it stands there, beside an issuer that publishes keys over HTTP."""

from __future__ import annotations

import re
import runpy
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jwt
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from postfacta_core.asgi.stack import Hardened
from postfacta_core.testing import call_asgi
from tests.kit.behind import behind_uvicorn
from tests.kit.keys import Key, ec_key
from tests.kit.lifespan import running

PAGE = Path(__file__).parents[2] / "docs/how-to/verify-tokens.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KEY = ec_key("first")


class Login:
    """An issuer: it publishes a key, unless it is down."""

    url = ""
    is_down = False

    async def publish(self, request: Request) -> Response:
        """GET /.well-known/jwks.json."""
        return Response("", 502) if self.is_down else JSONResponse({"keys": [KEY.public]})

    def token(self, by: Key = KEY, **claims: object) -> str:
        """Sign a token for the service of the page."""
        said = {"iss": self.url, "aud": "billing", "sub": "ada", "exp": 4_102_444_800} | claims
        return jwt.encode(said, by.private, by.algorithm, headers={"kid": by.kid})


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> Generator[Login]:
    """Serve an issuer from a thread, and set the page to it."""
    login = Login()
    app = Starlette(routes=[Route("/.well-known/jwks.json", login.publish)])
    with behind_uvicorn(app) as url:
        login.url = f"{url}/"
        monkeypatch.setenv("ISSUER", login.url)
        yield login


def _app(folder: Path) -> Hardened:
    known: dict[str, Any] = {}
    for number, block in enumerate(BLOCK.findall(PAGE.read_text())):
        file = folder / f"block_{number}.py"
        file.write_text(block)
        known |= runpy.run_path(str(file), init_globals=known)
    app: Hardened = known["app"]
    return app


async def _status(app: Hardened, authorization: str) -> int:
    headers = [("authorization", authorization)] if authorization else []
    return (await call_asgi(app, "GET", "/invoices/7", headers=headers)).status


async def test_the_service_of_the_page_takes_valid_tokens_alone(
    login: Login, tmp_path: Path
) -> None:
    app = _app(tmp_path)
    async with running(app):
        headers = [("authorization", f"Bearer {login.token()}")]
        answer = await call_asgi(app, "GET", "/invoices/7", headers=headers)
        assert (answer.status, answer.json()) == (200, {"id": 7, "of": "ada"})
        for other in (
            "",
            "Bearer",
            "Bearer abc",
            f"Bearer {login.token(by=ec_key('first'))}",
            f"Bearer {login.token(by=ec_key('second'))}",
            f"Bearer {login.token(aud='shop')}",
            f"Bearer {login.token(exp=1)}",
        ):
            assert await _status(app, other) == 401, other
        login.is_down = True
        assert await _status(app, f"Bearer {login.token()}") == 200
        page = (await call_asgi(app, "GET", "/metrics")).body.decode()
        assert re.search(r"^login_keys_age_seconds \d", page, re.MULTILINE)


async def test_without_any_key_the_service_of_the_page_is_unavailable(
    login: Login, tmp_path: Path
) -> None:
    login.is_down = True
    app = _app(tmp_path)
    async with running(app):
        headers = [("authorization", f"Bearer {login.token()}")]
        refusal = await call_asgi(app, "GET", "/invoices/7", headers=headers)
        assert (refusal.status, refusal.json()["code"]) == (503, "unavailable")
        assert 1 <= int(refusal.header("retry-after") or 0) <= 30
        page = (await call_asgi(app, "GET", "/metrics")).body.decode()
        assert "login_keys_age_seconds +Inf" in page
