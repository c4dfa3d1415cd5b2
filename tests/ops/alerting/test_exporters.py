"""What the rules about the infrastructure look at is there.

Each exporter that they name is started and asked.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from chaos.alertmanager import Alertmanager
from chaos.prometheus import Prometheus
from postfacta_embedded import EmbeddedPostgres
from postfacta_lab.engine.processes import free_port, wait_until
from tests.ops.alerting.rules import (
    Alert,
    alerts,
    metrics_of,
    needs_alertmanager,
    needs_promtool,
    program,
)
from tests.ops.runbooks.reading import queries

pytestmark = pytest.mark.usefixtures("programs")

_START = 30.0
# Patroni needs a cluster around it. Its names were read in the source of version 4.1.
PATRONI = {"patroni_cluster_unlocked", "patroni_postgres_running", "patroni_primary"}
# These appear with the first failure.
LATE = {"alertmanager_notifications_failed_total"}


def of_job(job: str) -> list[Alert]:
    return [
        one
        for one in alerts()
        if f'job="{job}"' in one.expr and one.file in {"infra.yml", "selfmon.yml"}
    ]


def needed(*debian: str) -> str:
    found = program(*debian)
    if found is None:
        if "TEST_REQUIRE_ALL" in os.environ:
            pytest.fail(f"{debian[0]} is not installed")
        pytest.skip(f"{debian[0]} is not installed (Debian: apt-get install {debian[0]})")
    return found


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Generator[None]:
    with (
        log.open("ab") as output,
        subprocess.Popen(  # noqa: S603 - an argument list, no shell
            command,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
        ) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def exposed(url: str, log: Path) -> set[str]:
    """Wait for its page, and name what stands there."""

    def page() -> str:
        try:
            return httpx2.get(url, timeout=10.0).raise_for_status().text
        except httpx2.HTTPError:
            return ""

    try:
        wait_until(lambda: bool(page()), f"{url} answers", within=_START, every=0.1)
    except TimeoutError as error:
        raise TimeoutError(
            f"{error}; its last words:\n{log.read_text(errors='replace')[-1500:]}"
        ) from None
    lines = page().splitlines()
    return {line.partition("{")[0].partition(" ")[0] for line in lines if line[:1] not in {"", "#"}}


def assert_all_there(job: str, names: set[str]) -> None:
    rules = of_job(job)
    assert rules
    for expr in (
        *(one.expr for one in rules),
        *(one.expr for one in queries() if f'job="{job}"' in one.expr),
    ):
        assert {name for name in metrics_of(expr) if not name.startswith("postfacta_")} <= names, (
            expr
        )


def test_the_exporter_of_postgresql_exposes_what_its_rules_look_at(
    postgres_server: EmbeddedPostgres, tmp_path: Path
) -> None:
    command, port, log = needed("prometheus-postgres-exporter"), free_port(), tmp_path / "log"
    source = {"DATA_SOURCE_NAME": f"{postgres_server.dsn()}?sslmode=disable"}
    with running([command, f"--web.listen-address=127.0.0.1:{port}"], source, log):
        names = exposed(f"http://127.0.0.1:{port}/metrics", log)
        assert "pg_up" in names
        assert_all_there("postgres", names)


def test_the_exporter_of_the_machine_exposes_what_its_rules_look_at(tmp_path: Path) -> None:
    command, port, log = needed("prometheus-node-exporter"), free_port(), tmp_path / "log"
    options = ["--collector.disable-defaults", "--collector.filesystem"]
    with running([command, *options, f"--web.listen-address=127.0.0.1:{port}"], {}, log):
        assert_all_there("node-postgres", exposed(f"http://127.0.0.1:{port}/metrics", log))


def test_the_exporter_of_valkey_exposes_what_its_rules_look_at(tmp_path: Path) -> None:
    command, port, log = needed("prometheus-redis-exporter"), free_port(), tmp_path / "log"
    # Nobody listens there: what a Valkey that is down looks like is what the rule is about.
    options = [
        f"--redis.addr=redis://127.0.0.1:{free_port()}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running([command, *options], {}, log):
        assert_all_there("valkey", exposed(f"http://127.0.0.1:{port}/metrics", log))


def test_patroni_is_asked_for_what_it_has_alone() -> None:
    asked = [*(one.expr for one in of_job("patroni")), *(one.expr for one in queries())]
    exprs = [expr for expr in asked if 'job="patroni"' in expr]
    assert {name for expr in exprs for name in metrics_of(expr)} == PATRONI


def test_the_exporter_of_certificates_exposes_what_its_rules_look_at(tmp_path: Path) -> None:
    command, port, log = needed("prometheus-blackbox-exporter"), free_port(), tmp_path / "log"
    config = tmp_path / "blackbox.yml"
    tls = {"insecure_skip_verify": True}
    module = {
        "prober": "http",
        "timeout": "5s",
        "http": {"preferred_ip_protocol": "ip4", "tls_config": tls},
    }
    config.write_text(json.dumps({"modules": {"http_2xx": module}}))
    options = [f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"]
    with served_with_tls(tmp_path) as address, running([command, *options], {}, log):
        names = exposed(f"http://127.0.0.1:{port}/probe?module=http_2xx&target={address}", log)
    assert_all_there("blackbox-tls", names)


@contextmanager
def served_with_tls(folder: Path) -> Generator[str]:
    """Serve an empty page with a certificate of a day, and give its address."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    options = [
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]
    subprocess.run(  # noqa: S603 - an argument list, no shell
        [needed("openssl"), "req", "-x509", *options, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
        timeout=30,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@needs_promtool
def test_prometheus_exposes_what_its_rules_look_at(tmp_path: Path) -> None:
    with Prometheus(tmp_path, {}) as prometheus:
        names = exposed(f"{prometheus.url}/metrics", prometheus.log)
    # One rule must be there, so that its counter of failures is.
    names |= {"prometheus_rule_evaluation_failures_total"}
    assert_all_there("prometheus", names)


@needs_promtool
def test_a_rule_that_fails_is_counted_as_the_alert_has_it(tmp_path: Path) -> None:
    rule = tmp_path / "rules.yml"
    rule.write_text(
        'groups: [{name: g, interval: 1s, rules: [{record: "x", expr: "label_replace(vector(1), \\"a\\", \\"b\\", \\"c\\", \\"d\\")"}]}]'
    )
    with Prometheus(tmp_path, {}, rules=[rule]) as prometheus:
        page = ""
        end = time.monotonic() + _START
        while "prometheus_rule_evaluation_failures_total{" not in page and time.monotonic() < end:
            page = httpx2.get(f"{prometheus.url}/metrics", timeout=10.0).text
    assert 'prometheus_rule_evaluation_failures_total{rule_group="' in page


@needs_alertmanager
def test_alertmanager_exposes_what_its_rules_look_at(tmp_path: Path) -> None:
    urls = {f"{name}_url": "http://127.0.0.1:9/" for name in ("pager", "ticket", "deadman")}
    with Alertmanager(tmp_path, urls, by=60) as alertmanager:
        alertmanager.send({"alertname": "ValkeyDown", "service": "postfacta", "severity": "ticket"})
        end = time.monotonic() + _START
        names: set[str] = set()
        while not names >= LATE and time.monotonic() < end:
            names = exposed(f"{alertmanager.url}/metrics", alertmanager.log)
    assert_all_there("alertmanager", names)
