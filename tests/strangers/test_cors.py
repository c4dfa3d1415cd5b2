"""A page of another origin reads why a hardened service refused it, in a real browser."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.app.browsing import NEEDS_CHROMIUM, chromium
from tests.strangers.kit import Environments

SERVICE = """
    from fastapi import FastAPI
    from postfacta_core.asgi import Cors, HardenOptions, harden, problem_handler
    from postfacta_core.errors import PoolTimeoutError, ResilienceError
    from postfacta_core.deadlines._limits import TransferLimits

    web = FastAPI(exception_handlers={ResilienceError: problem_handler})


    @web.get("/orders")
    def orders():
        return []


    @web.put("/orders/{number}")
    def put(number: int, order: dict):
        return order


    @web.get("/busy")
    def busy():
        raise PoolTimeoutError("main", 7)


    app = harden(
        web,
        service="shop",
        options=HardenOptions(
            cors=Cors(
                allow_origins=["ORIGIN"],
                allow_methods=["GET", "PUT"],
                allow_headers=["Content-Type"],
                allow_credentials=True,
            ),
            rate_limits=["20/minute per client"],
            limits=TransferLimits(max_body_bytes=100),
        ),
    )
"""
OWN = """
    from fastapi import FastAPI
    from fastapi.middleware.cors import CORSMiddleware
    from postfacta_core.asgi import HardenOptions, harden
    from postfacta_core.deadlines._limits import TransferLimits

    web = FastAPI()
    web.add_middleware(
        CORSMiddleware,
        allow_origins=["ORIGIN"],
        allow_methods=["GET", "PUT"],
        allow_headers=["Authorization"],
        allow_credentials=True,
    )


    @web.get("/orders")
    def orders():
        return []


    app = harden(
        web,
        service="shop",
        options=HardenOptions(
            rate_limits=["6/minute per client"], limits=TransferLimits(max_body_bytes=100)
        ),
    )
"""
ASK = """async ([url, options]) => {
    try {
        const answer = await fetch(url, {credentials: "include", ...options});
        const told = await answer.json();
        return [answer.status, told.code || told, Number(answer.headers.get("Retry-After"))];
    } catch (error) {
        return [String(error)];
    }
}"""


class Blank(BaseHTTPRequestHandler):
    """A page without anything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>console</title>")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as above
        """Log nothing."""


@contextmanager
def site() -> Generator[str]:
    """Serve a page of an origin of its own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Blank) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def ask(page: Page, url: str, **options: object) -> list[object]:
    answer: list[object] = page.evaluate(ASK, [url, options])
    return answer


@NEEDS_CHROMIUM
@pytest.mark.usefixtures("chromiums")
def test_a_page_of_another_origin_reads_each_refusal(
    environments: Environments, tmp_path: Path
) -> None:
    environment = environments("fastapi", "uvicorn")
    with (
        site() as listed,
        site() as foreign,
        environment.serve(SERVICE.replace("ORIGIN", listed), cwd=tmp_path) as served,
        chromium() as browser,
        browser.new_context() as context,
    ):
        page = context.new_page()
        page.goto(listed)
        json = {"method": "PUT", "headers": {"Content-Type": "application/json"}}
        assert ask(page, f"{served.url}/orders") == [200, [], 0]
        assert ask(page, f"{served.url}/busy") == [503, "unavailable", 7]
        assert ask(page, f"{served.url}/orders/7", **json, body='{"a": 1}') == [200, {"a": 1}, 0]
        assert ask(page, f"{served.url}/orders/7", **json, body='"' + "x" * 200 + '"')[:2] == [
            413,
            "too-large",
        ]
        assert ask(page, f"{served.url}/orders", method="DELETE") == ["TypeError: Failed to fetch"]
        answers = [ask(page, f"{served.url}/orders") for _ in range(20)]
        assert answers[-1][:2] == [429, "rate-limited"]
        assert float(str(answers[-1][2])) >= 1
        page.goto(foreign)
        assert ask(page, f"{served.url}/orders") == ["TypeError: Failed to fetch"]


@NEEDS_CHROMIUM
@pytest.mark.usefixtures("chromiums")
def test_a_page_reads_refusals_by_the_rules_of_the_applications_own_middleware(
    environments: Environments, tmp_path: Path
) -> None:
    environment = environments("fastapi", "uvicorn")
    with (
        site() as listed,
        site() as foreign,
        environment.serve(OWN.replace("ORIGIN", listed), cwd=tmp_path) as served,
        chromium() as browser,
        browser.new_context() as context,
    ):
        page = context.new_page()
        page.goto(listed)
        url = f"{served.url}/orders"
        assert ask(page, url) == [200, [], 0]
        large = ask(page, url, method="PUT", body="x" * 200)
        assert large[:2] == [413, "too-large"]
        answers = [ask(page, url) for _ in range(6)]
        assert answers[-1][:2] == [429, "rate-limited"]
        assert float(str(answers[-1][2])) >= 1
        # No preflight was sent for this yet, and its client is over the rate by now.
        signed = ask(page, url, headers={"Authorization": "Bearer a"})
        assert signed[:2] == [429, "rate-limited"]
        page.goto(foreign)
        assert ask(page, url) == ["TypeError: Failed to fetch"]
