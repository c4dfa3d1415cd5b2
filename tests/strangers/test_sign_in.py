"""A service whose users sign in by a key from a file, which is replaced while it runs, and which others guess at."""

from __future__ import annotations

import signal
from itertools import count
from pathlib import Path

import httpx2

from tests.kit.waiting import wait_until
from tests.strangers.kit import Environments

SERVICE = """
    import hmac
    import os
    from dataclasses import dataclass
    from pathlib import Path

    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from postfacta_web.secrets import Reloaded
    from postfacta_web.sign_in import SignInThrottle, client_of
    from postfacta_core import ResilienceError
    from postfacta_core.asgi import HardenOptions, harden, problem_handler


    @dataclass(frozen=True)
    class Secrets:
        key: str


    def read() -> Secrets:
        return Secrets(Path(os.environ["KEY_FILE"]).read_text().strip())


    secrets = Reloaded(read(), read, ["key"], every=3600)
    throttle = SignInThrottle()


    async def sign_in(request):
        async with throttle.attempt(client_of(request.scope), request.query_params["account"]) as accept:
            if not hmac.compare_digest(await request.body(), secrets.current.key.encode()):
                raise HTTPException(401)
            accept()
        return PlainTextResponse("signed in")


    web = Starlette(
        routes=[Route("/sign-in", sign_in, methods=["POST"])],
        exception_handlers={ResilienceError: problem_handler},
    )
    options = HardenOptions(trusted_proxies=["127.0.0.1"])
    app = harden(web, service="shop", options=options, resources=[secrets.watching()])
"""


def test_a_key_is_replaced_and_guesses_at_it_are_limited(
    environments: Environments, tmp_path: Path
) -> None:
    (tmp_path / "service").mkdir()
    file = tmp_path / "key"
    file.write_text("former")
    environment = {"KEY_FILE": str(file)}
    with environments("starlette", "uvicorn").serve(
        SERVICE, cwd=tmp_path / "service", environment=environment
    ) as served:

        def sign_in(key: str, client: str = "192.0.2.1", account: str = "ann") -> httpx2.Response:
            return httpx2.post(
                f"{served.url}/sign-in",
                params={"account": account},
                content=key,
                headers={"X-Forwarded-For": client},
                timeout=10,
            )

        assert sign_in("former").status_code == 200
        file.write_text("next")
        served.process.send_signal(signal.SIGHUP)
        # Each from another network, so that the guesses which come too early use up no rate.
        hosts = (f"10.0.{number >> 8}.{number & 255}" for number in count())
        wait_until(lambda: sign_in("next", next(hosts), account="bob").status_code == 200)
        assert [sign_in("former").status_code for _ in range(6)] == [401] * 5 + [429]
        refused = sign_in("next")
        assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited")
        assert 1 <= int(refused.headers["Retry-After"]) <= 12
        # The owner comes from elsewhere.
        assert sign_in("next", client="203.0.113.1").status_code == 200
        page = httpx2.get(f"{served.url}/metrics", timeout=10).text
        assert (
            'postfacta_ratelimit_decisions_total{decision="limited",mode="enforce",policy="sign-in"} 2.0'
            in page
        )
