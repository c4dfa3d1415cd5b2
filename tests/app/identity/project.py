"""A Supabase project on this machine.

It publishes keys, signs tokens, and answers as GoTrue does.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import anyio
import jwt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from postfacta_app.settings import Settings, load_settings
from tests.kit.behind import behind_uvicorn
from tests.kit.keys import Key, ec_key

__all__ = ["ANON_KEY", "SECRET", "SUB", "FakeProject", "running_project"]

Json = dict[str, Any]

SECRET = "a secret of the project, which nobody has published"  # noqa: S105 - of nobody
ANON_KEY = "the-publishable-key-of-the-project"
SUB = UUID("8d0fd2b3-9ca7-4d9e-a95f-9e13dded323e")
EMAIL = "ada@example.org"


@dataclass
class FakeProject:
    """The project, and what a test may turn.

    Attributes:
        keys: Those that it publishes; it signs by the first.
        signs_by: The secret, if it signs by that instead.
        published: What the endpoint of the keys answers: a body, or a name of `_STRANGE`.
        answer: What GoTrue answers: a status and a body, JSON or not.
        fetches: How often the keys were asked for.
        requests: What GoTrue was asked: path, headers and body.
    """

    url: str = ""
    keys: list[Key] = field(default_factory=lambda: [ec_key("first")])
    signs_by: str | None = None
    published: str | None = None
    answer: tuple[int, Json | str] = (
        400,
        {"code": 400, "error_code": "invalid_credentials", "msg": "No"},
    )
    retry_after: str = ""
    fetches: int = 0
    requests: list[tuple[str, Json, Json]] = field(default_factory=list[tuple[str, Json, Json]])

    def reset(self) -> None:
        """Forget all but the address."""
        vars(self).update(vars(FakeProject(url=self.url)))

    @property
    def issuer(self) -> str:
        """Who signs."""
        return f"{self.url}/auth/v1"

    def settings(self, **given: object) -> Settings:
        """Set the service to it."""
        return load_settings({}, **(self.given | given))

    @property
    def given(self) -> Json:
        """What has to be set."""
        return {
            "auth_mode": "supabase",
            "db_url": self.url,
            "db_key": ANON_KEY,
            "jwt_secret": SECRET,
        }

    def claims(self, now: float, **other: object) -> Json:
        """Write what GoTrue writes into a token; a claim that is None is left out."""
        claims: Json = {
            "iss": self.issuer,
            "sub": str(SUB),
            "aud": "authenticated",
            "exp": int(now) + 3600,
            "iat": int(now),
            "email": EMAIL,
            "phone": "",
            "app_metadata": {"provider": "email", "providers": ["email"]},
            "user_metadata": {"postfacta_role": "admin", "email": "root@example.org"},
            "role": "authenticated",
            "aal": "aal1",
            "session_id": "cf3a3c6c-66bd-4a68-a4b9-1d7cd9b6bdb3",
            "is_anonymous": False,
        }
        return {name: value for name, value in (claims | other).items() if value is not None}

    def token(
        self,
        now: float,
        *,
        by: Key | str | None = None,
        header: Json | None = None,
        **other: object,
    ) -> str:
        """Sign a token with a key, or with a secret."""
        key = by or self.signs_by or self.keys[0]
        claims = self.claims(now, **other)
        if isinstance(key, str):
            return jwt.encode(claims, key, "HS256", headers=header)
        return jwt.encode(
            claims, key.private, key.algorithm, headers={"kid": key.kid} | (header or {})
        )

    async def publish(self, request: Request) -> Response:
        """GET /auth/v1/.well-known/jwks.json."""
        self.fetches += 1
        known = json.dumps({"keys": [key.public for key in self.keys]})
        if self.published in _STRANGE:
            strange: Response = await _STRANGE[self.published](self, known)
            return strange
        return Response(
            known if self.published is None else self.published, media_type="application/json"
        )

    async def settings_of(self, request: Request) -> Response:
        """GET /auth/v1/settings, which the gateway answers to requests with the key."""
        if request.headers.get("apikey") != ANON_KEY:
            return Response('{"message": "Invalid API key"}', 401, media_type="application/json")
        return Response(
            '{"external": {"email": true}, "disable_signup": false}', media_type="application/json"
        )

    async def publish_elsewhere(self, request: Request) -> Response:
        """GET /elsewhere: the target of a redirect, never to be requested."""
        return Response(json.dumps({"keys": [key.public for key in self.keys]}))

    async def gotrue(self, request: Request) -> Response:
        """POST /auth/v1/token."""
        path = request.url.path.removeprefix("/auth/v1") + f"?{request.url.query}".removesuffix("?")
        self.requests.append((path, dict(request.headers), json.loads(await request.body())))
        status, body = self.answer
        if body == "slow":
            await anyio.sleep(5)
        text, kind = (
            (body, "text/html") if isinstance(body, str) else (json.dumps(body), "application/json")
        )
        headers = {"Retry-After": self.retry_after} if self.retry_after else {}
        return Response(text, status, headers, media_type=kind)


async def _down(project: FakeProject, known: str) -> Response:
    return Response("<h1>502 Bad Gateway</h1>", 502, media_type="text/html")


async def _slow(project: FakeProject, known: str) -> Response:
    await anyio.sleep(5)
    return Response(known)


async def _oversized(project: FakeProject, known: str) -> Response:
    return Response(known + " " * 65_536)


async def _moved(project: FakeProject, known: str) -> Response:
    return RedirectResponse("/elsewhere")


async def _inflated(project: FakeProject, known: str) -> Response:
    return Response(
        base64.b64decode("H4sIAAAAAAACAwMAAAAAAAAAAAA="), headers={"Content-Encoding": "gzip"}
    )


_STRANGE: dict[str | None, Callable[[FakeProject, str], Any]] = {
    "down": _down,
    "slow": _slow,
    "oversized": _oversized,
    "moved": _moved,
    "inflated": _inflated,
}


@contextmanager
def running_project() -> Generator[FakeProject]:
    """Serve a project from a thread until the block ends."""
    project = FakeProject()
    routes = [
        Route("/auth/v1/.well-known/jwks.json", project.publish),
        Route("/auth/v1/settings", project.settings_of),
        Route("/auth/v1/token", project.gotrue, methods=["POST"]),
        Route("/elsewhere", project.publish_elsewhere),
    ]
    # What is slow to answer is not waited for.
    with behind_uvicorn(Starlette(routes=routes), timeout_graceful_shutdown=0) as project.url:
        yield project
