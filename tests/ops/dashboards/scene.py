"""Runs the real service and a small one of other people under some traffic, with a Prometheus that scrapes both."""

from __future__ import annotations

import math
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from uuid import uuid4

import httpx2

from chaos.stack import EMAIL, Stack, prepare
from postfacta_lab.engine.processes import free_port, wait_until
from tests.ops.dashboards.reading import ROOT
from tests.ops.prometheus import Prometheus, scrape_config

__all__ = ["EXPORTER", "Scene", "played"]

EXPORTER = shutil.which("prometheus-postgres-exporter")
"""PostgreSQL's own numbers; None if this system has no such program."""

_LEAST = 20.0  # seconds of traffic: a rate over a minute needs two scrapes, and rules need those of other rules
_START = 60.0
_ENOUGH = 12  # incidents: below ten the service tells no ninth decile


@dataclass
class Scene:
    """What runs.

    Attributes:
        prometheus: Which has scraped all of it.
        urls: Where each job answers.
        types: What each metric is, by the family's name as it was scraped.
        names: Of all series.
        moment: When users had just gone: queries that ask for the present ask for this one.
    """

    prometheus: Prometheus
    urls: Mapping[str, str]
    types: dict[str, str] = field(default_factory=dict[str, str])
    names: set[str] = field(default_factory=set[str])
    moment: float = 0.0

    def kind_of(self, metric: str) -> str:
        """Return the type of a metric; nothing if no source has it.

        In OpenMetrics a family has no end, in the older format it may.
        """
        family = re.sub(r"_(bucket|sum|count|total)$", "", metric)
        return (
            self.types.get(metric)
            or self.types.get(family)
            or ("gauge" if metric in self.names else "")
        )

    def ask(self, expr: str) -> list[float]:
        """Evaluate an expression at that moment, and give the values that are numbers."""
        found = self.prometheus.query(expr, at=self.moment)
        return [sample.value for sample in found if math.isfinite(sample.value)]


@contextmanager
def played(folder: Path, *, rules: Sequence[Path] = ()) -> Generator[Scene]:
    """Start everything, let users come for a while, and give what Prometheus has then.

    Args:
        folder: Open to all users, as PostgreSQL may run as another one.
        rules: Files of rules; each is evaluated every second, whatever it says itself.
    """
    hurried = [_hurried(rule, folder) for rule in rules]
    with Stack(folder / "stack", prepare(folder / "template"), instances=1) as stack:
        password = (folder / "template/admin.password").read_text()
        _make_history(stack, password)
        urls = {"postfacta": stack.instances[0].url}
        with (
            _billing(folder) as urls["billing"],
            _exporter(stack.dsn(), folder) as urls["postgres"],
        ):
            targets = {job: [url.removeprefix("http://")] for job, url in urls.items() if url}
            # A busy machine may take a second for what an exporter asks PostgreSQL.
            config = scrape_config(targets, every="2s", rules=hurried)
            with Prometheus(folder / "prometheus", config) as prometheus:
                scene = Scene(prometheus, urls)
                _visit(scene, stack, password=password)
                scene.moment = time.time()  # noqa: TID251 - Prometheus's moments are the wall's
                known = prometheus.get("metadata")
                scene.types = {name: told[0]["type"] for name, told in known.items()}
                scene.names = set(prometheus.get("label/__name__/values"))
                yield scene


def _hurried(rules: Path, folder: Path) -> Path:
    """Write rules again, to be evaluated as often as everything else here."""
    copy = folder / rules.name
    copy.write_text(
        re.sub(r"^( *)interval: \w+$", r"\1interval: 1s", rules.read_text(), flags=re.MULTILINE)
    )
    return copy


def _make_history(stack: Stack, password: str) -> None:
    """Let there be incidents, and start anew.

    The service asks the database for their numbers then, and each minute.
    """
    with _signed_in(stack.url, stack.token) as client:
        _invite(client)
        for _ in range(_ENOUGH):
            _use(client, password)
    stack.instances[0].stop()
    stack.restore()


def _visit(scene: Scene, stack: Stack, *, password: str) -> None:
    began = time.monotonic()
    billing = threading.Thread(target=_visit_billing, args=(scene.urls["billing"], began + _LEAST))
    billing.start()
    try:
        _visit_app(scene.urls["postfacta"], stack.token, password, until=began + _LEAST)
    finally:
        billing.join(_START)


def _visit_app(url: str, token: str, password: str, *, until: float) -> None:
    with _signed_in(url, token) as client:
        for turn in count():
            if time.monotonic() >= until:
                return
            if turn % 10 == 0:
                _crowd(client)
            _use(client, password)
            time.sleep(0.3)  # noqa: TID251 - users think


def _crowd(client: httpx2.Client) -> None:
    """Ask for so much at the same moment that some of it is refused.

    What fails is the service's then.
    """
    authorization = client.headers["Authorization"]
    request = (
        f"GET /api/v1/incidents?limit=20 HTTP/1.1\r\nhost: crowd\r\nauthorization: {authorization}\r\n"
        "connection: close\r\n\r\n"
    ).encode()
    address = (client.base_url.host, client.base_url.port or 80)
    with ExitStack() as stack:
        callers = [stack.enter_context(socket.create_connection(address, 20)) for _ in range(400)]
        for caller in callers:
            caller.sendall(request)
        for caller in callers:
            while caller.recv(65_536):
                pass


def _signed_in(url: str, token: str) -> httpx2.Client:
    return httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=20.0)


def _invite(client: httpx2.Client) -> None:
    """Make an API token, whose age is a metric."""
    body = {"name": "ci", "scopes": ["incidents:read"]}
    client.post("/api/v1/tokens", json=body, headers=_once()).raise_for_status()


def _report(client: httpx2.Client) -> None:
    """Report a deployment, as a build does, and an alert of a notification that was cut short."""
    deployed = {
        "kind": "change",
        "title": "Deployed checkout",
        "environment": "prod",
        "occurred_at": "2026-02-07T10:04:00Z",
        "payload": {"outcome": "succeeded"},
    }
    client.post(
        "/api/v1/signals", json={"items": [{**deployed, "id": str(uuid4())}]}
    ).raise_for_status()
    alert = {
        "status": "firing",
        "labels": {"alertname": "CheckoutErrorRatio", "run": str(uuid4())},
        "startsAt": "2026-02-07T10:05:00Z",
        "fingerprint": uuid4().hex[:16],
    }
    told = {"version": "4", "status": "firing", "truncatedAlerts": 3, "alerts": [alert]}
    client.post("/api/v1/ingest/alertmanager", json=told).raise_for_status()


def _use(client: httpx2.Client, password: str) -> None:
    """Do once what people do.

    Look, ask for what is not there, have no time, mistype, record an incident, move it.
    """
    _report(client)
    client.get("/api/v1/incidents?limit=20").raise_for_status()
    client.get("/api/v1/nothing-here")
    client.get("/api/v1/incidents?limit=20", headers={"X-Request-Timeout": "0"})
    for given in (password, "wrong"):
        client.post("/login", json={"email": EMAIL, "password": given})
    body = {"title": "Checkout is down", "description": "Nobody can pay.", "severity": "HIGH"}
    made = client.post("/api/v1/incidents", json=body, headers=_once()).raise_for_status()
    moves, version = f"{made.headers['Location']}/transitions", {"If-Match": made.headers["ETag"]}
    client.post(moves, json={"to": "IN_PROGRESS"}, headers=version).raise_for_status()


def _once() -> dict[str, str]:
    return {"Idempotency-Key": f'"{uuid4()}"'}


def _visit_billing(url: str, until: float) -> None:
    paths = ["/invoices/1", "/invoices/2", "/invoices/3", "/invoices/4", "/crash"]
    number = 0
    with httpx2.Client(base_url=url, timeout=20.0) as client:
        while time.monotonic() < until:
            # A connection that was cut is what somebody who asks too often may see.
            with suppress(httpx2.TransportError):
                client.get("/slow" if number % 20 == 10 else paths[number % len(paths)])
            number += 1
            time.sleep(0.1)  # noqa: TID251 - users think


@contextmanager
def _child(
    command: Sequence[str | Path], log: Path, **environment: str
) -> Generator[subprocess.Popen[bytes]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - an argument list, no shell
            command,
            cwd=ROOT,
            env=kept | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _billing(folder: Path) -> Generator[str]:
    port, log = free_port(), folder / "billing.log"
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "tests.ops.dashboards.billing:app",
        "--port",
        str(port),
    ]
    with _child([*command, "--no-access-log"], log) as process:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/healthz/ready", process, log)
        yield url


@contextmanager
def _exporter(dsn: str, folder: Path) -> Generator[str]:
    if EXPORTER is None:
        yield ""
        return
    port, log = free_port(), folder / "exporter.log"
    with _child(
        [EXPORTER, f"--web.listen-address=127.0.0.1:{port}"],
        log,
        DATA_SOURCE_NAME=f"{dsn}?sslmode=disable",
    ) as process:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/metrics", process, log)
        yield url


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def answers() -> bool:
        if (code := process.poll()) is not None:
            raise RuntimeError(f"it ended with {code}")
        try:
            return httpx2.get(url, timeout=5.0).status_code == 200
        except httpx2.TransportError:
            return False

    try:
        wait_until(answers, f"{url} answers", within=_START, every=0.1)
    except (TimeoutError, RuntimeError) as error:
        raise RuntimeError(
            f"{error}; its last words:\n{log.read_text(errors='replace')[-1500:]}"
        ) from None
