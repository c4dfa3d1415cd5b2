"""Each block of the page about frameworks that are not ASGI, or not known to be, with the real packages."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import httpx2
import pytest

from tests.kit.waiting import wait_until
from tests.servers.serving import BIND
from tests.strangers.kit import ROOT, Environments, Served

PAGE: Final = (ROOT / "docs/how-to/not-asgi.md").read_text()
UVICORN: Final = "uvicorn service:app --port {port} --no-access-log"
GUNICORN: Final = "gunicorn --threads 8 -b 127.0.0.1:{port} service:app"


@dataclass(frozen=True)
class Case:
    """A section of the page, and how its block is served.

    Attributes:
        command: Its server; `{port}` stands for the port.
        packages: Of its framework, with their versions.
        route: What its metrics call the route, with the name of the metric that has it.
        is_hardened: Whether `harden` stands around it.
        lock: Requirements in place of the packages.
    """

    command: str
    packages: tuple[str, ...]
    route: str
    is_hardened: bool = True
    lock: Path | None = None


CASES: Final = {
    "Django": Case(UVICORN, ("django==5.2.19",), "/invoices/<int:number>"),
    # Its requirements contradict those of requirements/dev.txt.
    "Sanic": Case(UVICORN, (), "/invoices/<number:int>", lock=ROOT / "tests/strangers/sanic.txt"),
    "Flask": Case(GUNICORN, ("flask==3.1.3", "gunicorn"), "/invoices/<int:number>"),
    "Django's WSGI": Case(GUNICORN, ("django==5.2.19", "gunicorn"), "/invoices/<int:number>"),
    "waitress": Case(
        "python service.py", ("flask==3.1.3", "waitress==3.0.2"), "/invoices/<int:number>"
    ),
    "aiohttp: the guards alone": Case(
        "python service.py", ("aiohttp==3.14.5",), "/invoices/{number}", is_hardened=False
    ),
    "Tornado: the guards alone": Case(
        "python service.py", ("tornado==6.6.1",), "Invoice", is_hardened=False
    ),
}


def block(section: str) -> str:
    """Return the Python of a section."""
    (text,) = re.findall(
        rf"^## {re.escape(section)}\n.*?^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
    )
    return str(text)


@dataclass
class Billing:
    """The service that is called: number N takes N s if N is 1 or 8, 6 is no JSON, and from 500 on it fails."""

    server: ThreadingHTTPServer
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    slow: threading.Event = field(default_factory=threading.Event)

    @property
    def port(self) -> int:
        """Its port on the loopback interface."""
        return self.server.server_port


@pytest.fixture
def billing() -> Generator[Billing]:
    """Serve what the page's services call."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            number = int(self.path.rpartition("/")[2])
            service.headers.append({name.lower(): value for name, value in self.headers.items()})
            if number in {1, 8}:
                service.slow.set()
                time.sleep(number)  # noqa: TID251 - in a thread of its own
            # Who asked has gone after a deadline.
            with suppress(ConnectionError):
                self.answer(number)

        def answer(self, number: int) -> None:
            body = b"{" if number == 6 else json.dumps({"id": number}).encode()
            self.send_response(500 if number >= 500 else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
            """Write nothing."""

    service = Billing(ThreadingHTTPServer((BIND, 0), Handler))
    thread = threading.Thread(target=service.server.serve_forever, daemon=True)
    thread.start()
    yield service
    service.server.shutdown()
    service.server.server_close()
    thread.join(10)


def get(served: Served, number: int) -> httpx2.Response:
    return httpx2.get(f"{served.url}/invoices/{number}", timeout=20)


@pytest.mark.long
@pytest.mark.parametrize("section", CASES)
def test_what_the_page_says_of_a_framework_is_so(
    section: str, environments: Environments, billing: Billing, tmp_path: Path
) -> None:
    case = CASES[section]
    packages = ("httpx2", "uvicorn", *case.packages) if case.lock is None else ()
    environment = environments(*packages, lock=case.lock)
    code = block(section).replace(":9000", f":{billing.port}")
    with environment.serve(code, cwd=tmp_path, command=case.command, own_port="8000") as served:
        good = get(served, 7)
        assert (good.status_code, good.json()) == (200, {"id": 7})
        # A call has less time than its request, and its id.
        (call,) = billing.headers
        assert 0 < float(call["x-request-timeout"]) < 2
        assert re.fullmatch(r"[0-9a-f]{32}", call["x-request-id"])

        said = f'"request_id": "{call["x-request-id"]}"'
        wait_until(lambda: said in served.log, f"no line has {said}")

        began = time.monotonic()
        late = get(served, 8)
        assert late.status_code == 504, late.text
        assert 1.5 < time.monotonic() - began < 6

        crash = get(served, 6)
        assert crash.status_code == 500
        if section in {"Django", "Flask", "Django's WSGI", "waitress"}:
            assert crash.json()["request_id"] == crash.headers["x-request-id"]

        refusal = until_refused(served)
        assert refusal.status_code == 503
        assert int(refusal.headers["retry-after"]) >= 1

        page = httpx2.get(f"{served.url}/metrics", timeout=10).text
        assert re.search(r'postfacta_breaker_state\{breaker="billing",state="open"\} 1\.0', page)
        if case.is_hardened:
            assert good.headers["x-request-id"] == call["x-request-id"]
            assert re.search(
                rf'status_code="200",http_route="{re.escape(case.route)}".* 1\.0', page
            )
            assert httpx2.get(f"{served.url}/healthz/ready", timeout=10).status_code == 200
        else:
            for outcome in ("success", "deadline"):
                assert f'outcome="{outcome}",task="{case.route}"' in page


@pytest.mark.long
@pytest.mark.parametrize("section", CASES)
def test_a_request_that_runs_at_sigterm_is_answered(
    section: str, environments: Environments, billing: Billing, tmp_path: Path
) -> None:
    case = CASES[section]
    packages = ("httpx2", "uvicorn", *case.packages) if case.lock is None else ()
    environment = environments(*packages, lock=case.lock)
    code = block(section).replace(":9000", f":{billing.port}")
    with (
        environment.serve(code, cwd=tmp_path, command=case.command, own_port="8000") as served,
        ThreadPoolExecutor(1) as caller,
    ):
        running = caller.submit(get, served, 1)
        assert billing.slow.wait(20)
        served.process.send_signal(signal.SIGTERM)
        answer = running.result(20)
        assert (answer.status_code, answer.json()) == (200, {"id": 1})
        served.process.wait(30)
        assert "Traceback" not in served.log


def until_refused(served: Served) -> httpx2.Response:
    """Ask for what fails until the circuit is open."""
    answers: list[httpx2.Response] = []

    def is_refused() -> bool:
        answers.append(get(served, 500))
        return answers[-1].status_code != 500

    wait_until(is_refused, "no circuit opened", 60)
    return answers[-1]
