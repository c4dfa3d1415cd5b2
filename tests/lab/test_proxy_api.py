"""The fault proxy's HTTP API is Toxiproxy's; TOXIPROXY_URL lets the original be asked instead."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from postfacta_lab.engine.http import Request
from postfacta_lab.proxy import Toxiproxy, ToxiproxyError
from postfacta_lab.proxy.command import Api
from tests.lab.peers import (
    PATIENCE,
    connect,
    echo,
    ending,
    new_proxy,
    ours_only,
    read_exactly,
    serve,
    the_proxy,
)

pytestmark = pytest.mark.usefixtures("programs")

UPSTREAM = "127.0.0.1:9"


@pytest.fixture(scope="module")
def api() -> Generator[Toxiproxy]:
    with the_proxy() as running:
        yield running


@pytest.fixture
def http(api: Toxiproxy) -> Generator[httpx2.Client]:
    with httpx2.Client(base_url=api.url, timeout=PATIENCE, trust_env=False) as client:
        yield client


@pytest.fixture
def name(api: Toxiproxy) -> Generator[str]:
    """Return the name of a proxy without a listening upstream."""
    with new_proxy(api, UPSTREAM) as (made, _):
        yield made


def refused(answer: httpx2.Response) -> tuple[int, str]:
    """Read the document of an error."""
    assert answer.headers["Content-Type"].startswith(("application/json", "text/plain"))
    document = answer.json()
    assert document["status"] == answer.status_code
    return document["status"], document["error"]


# Proxies


def test_a_new_proxy_is_created_shown_listed_and_deleted(http: httpx2.Client) -> None:
    new = {"name": "shown", "listen": "127.0.0.1:0", "upstream": UPSTREAM}
    made = http.post("/proxies", json=new)
    assert made.status_code == 201
    port = int(made.json()["listen"].removeprefix("127.0.0.1:"))
    assert port > 0
    expected: dict[str, object] = {
        **new,
        "listen": f"127.0.0.1:{port}",
        "enabled": True,
        "toxics": [],
    }
    for shown in (
        made.json(),
        http.get("/proxies/shown").json(),
        http.get("/proxies").json()["shown"],
    ):
        assert shown.items() >= expected.items()
    deleted = http.delete("/proxies/shown")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert refused(http.delete("/proxies/shown")) == (404, "proxy not found")


def test_a_proxy_may_begin_disabled(api: Toxiproxy, http: httpx2.Client) -> None:
    new = {"name": "off", "listen": "127.0.0.1:0", "upstream": UPSTREAM, "enabled": False}
    made = http.post("/proxies", json=new)
    assert made.status_code == 201
    assert made.json()["enabled"] is False
    api.update("off", enabled=True)
    shown = http.get("/proxies/off").json()
    assert shown["enabled"] is True
    assert not shown["listen"].endswith(":0")
    api.delete("off")


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_an_update_leaves_what_it_does_not_name(
    http: httpx2.Client, name: str, method: str
) -> None:
    before = http.get(f"/proxies/{name}").json()
    answer = http.request(method, f"/proxies/{name}", json={"enabled": False, "name": "ignored"})
    assert answer.status_code == 200
    assert answer.json() == {**before, "enabled": False}
    answer = http.request(method, f"/proxies/{name}", json={"enabled": True})
    assert answer.json() == before


def test_a_taken_port_is_an_error_that_leaves_no_proxy(http: httpx2.Client, name: str) -> None:
    taken = http.get(f"/proxies/{name}").json()["listen"]
    status, error = refused(
        http.post("/proxies", json={"name": "late", "listen": taken, "upstream": UPSTREAM})
    )
    assert status == 500
    assert "in use" in error
    assert http.get("/proxies/late").status_code == 404


def test_populating_twice_touches_nothing(api: Toxiproxy, http: httpx2.Client) -> None:
    with serve(echo) as upstream, new_proxy(api, upstream) as (name, address):
        api.add(name, "slow_close")
        with connect(address) as client:
            answer = http.post(
                "/populate", json=[{"name": name, "listen": address, "upstream": upstream}]
            )
            assert answer.status_code == 201
            assert [
                (proxy["name"], len(proxy["toxics"])) for proxy in answer.json()["proxies"]
            ] == [(name, 1)]
            client.sendall(b"hello")
            assert read_exactly(client, 5) == b"hello"


def test_populating_replaces_what_differs_and_adds_what_is_new(
    api: Toxiproxy, http: httpx2.Client
) -> None:
    with serve(echo) as upstream, new_proxy(api, UPSTREAM) as (name, address):
        api.add(name, "timeout")
        asked = [
            {"name": name, "listen": address, "upstream": upstream},
            {"name": "added", "listen": "127.0.0.1:0", "upstream": upstream, "enabled": False},
        ]
        answer = http.post("/populate", json=asked)
        assert answer.status_code == 201
        first, second = answer.json()["proxies"]
        assert (first["upstream"], first["toxics"], first["enabled"]) == (upstream, [], True)
        assert second["enabled"] is False
        api.delete("added")
        with connect(address) as client:
            client.sendall(b"hello")
            assert read_exactly(client, 5) == b"hello"


def test_populating_with_one_fault_creates_nothing(http: httpx2.Client) -> None:
    asked = [{"name": "good", "upstream": UPSTREAM}, {"name": "bad"}]
    assert refused(http.post("/populate", json=asked)) == (
        400,
        "missing required field: upstream at proxy 2",
    )
    assert "good" not in http.get("/proxies").json()


def test_a_reset_enables_all_and_removes_every_toxic(
    api: Toxiproxy, http: httpx2.Client, name: str
) -> None:
    api.add(name, "latency", latency=5)
    api.update(name, enabled=False)
    answer = http.post("/reset")
    assert (answer.status_code, answer.content) == (204, b"")
    shown = api.proxies()[name]
    assert (shown["enabled"], shown["toxics"]) == (True, [])


# Toxics


def test_a_toxic_has_defaults_for_all_but_its_type(http: httpx2.Client, name: str) -> None:
    answer = http.post(f"/proxies/{name}/toxics", json={"type": "latency"})
    assert answer.status_code == 200
    assert answer.json() == {
        "name": "latency_downstream",
        "type": "latency",
        "stream": "downstream",
        "toxicity": 1.0,
        "attributes": {"latency": 0, "jitter": 0},
    }
    assert http.get(f"/proxies/{name}/toxics/latency_downstream").json() == answer.json()


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("latency", {"latency": 5, "jitter": 1}),
        ("bandwidth", {"rate": 7}),
        ("slow_close", {"delay": 7}),
        ("timeout", {"timeout": 7}),
        ("reset_peer", {"timeout": 7}),
        ("slicer", {"average_size": 9, "size_variation": 3, "delay": 1}),
        ("limit_data", {"bytes": 7}),
    ],
)
def test_each_type_takes_its_attributes(
    http: httpx2.Client, name: str, kind: str, attributes: dict[str, int]
) -> None:
    new: dict[str, Any] = {
        "name": "mine",
        "type": kind,
        "stream": "upstream",
        "toxicity": 0.5,
        "attributes": attributes,
    }
    assert http.post(f"/proxies/{name}/toxics", json=new).json() == new
    assert http.get(f"/proxies/{name}").json()["toxics"] == [new]
    deleted = http.delete(f"/proxies/{name}/toxics/mine")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert http.get(f"/proxies/{name}/toxics").json() == []


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_an_updated_toxic_keeps_what_is_not_named(
    api: Toxiproxy, http: httpx2.Client, name: str, method: str
) -> None:
    toxic = api.add(name, "latency", toxicity=0.5, latency=10, jitter=3)
    change = {"attributes": {"jitter": 4}, "type": "timeout", "stream": "upstream"}
    answer = http.request(method, f"/proxies/{name}/toxics/{toxic}", json=change)
    assert answer.status_code == 200
    assert answer.json()["attributes"] == {"latency": 10, "jitter": 4}
    assert (answer.json()["type"], answer.json()["stream"]) == ("latency", "downstream")
    assert answer.json()["toxicity"] == 0.5
    http.request(method, f"/proxies/{name}/toxics/{toxic}", json={"toxicity": 0.25})
    shown = api.proxies()[name]["toxics"]
    assert [(one["toxicity"], one["attributes"]["latency"]) for one in shown] == [(0.25, 10)]


def test_toxics_are_listed_by_stream_in_the_order_of_effect(
    api: Toxiproxy, http: httpx2.Client, name: str
) -> None:
    for toxic, stream in (
        ("a", "downstream"),
        ("b", "upstream"),
        ("c", "downstream"),
        ("d", "upstream"),
    ):
        api.add(name, "slow_close", stream=stream, toxic=toxic)
    listed = http.get(f"/proxies/{name}/toxics").json()
    assert [toxic["name"] for toxic in listed] == ["b", "d", "a", "c"]


# Refusals

BODY = "bad request body"


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/proxies", "{", (400, BODY)),
        ("POST", "/proxies", "[]", (400, BODY)),
        ("POST", "/proxies", '{"name": 1, "upstream": "x:1"}', (400, BODY)),
        ("POST", "/proxies", '{"name": "x", "upstream": "x:1", "enabled": "no"}', (400, BODY)),
        ("POST", "/proxies", '{"upstream": "x:1"}', (400, "missing required field: name")),
        ("POST", "/proxies", '{"name": "x"}', (400, "missing required field: upstream")),
        ("POST", "/proxies", '{"name": "NAME", "upstream": "x:1"}', (409, "proxy already exists")),
        ("GET", "/proxies/none", "", (404, "proxy not found")),
        ("POST", "/proxies/none", "{}", (404, "proxy not found")),
        ("PATCH", "/proxies/none", "{}", (404, "proxy not found")),
        ("POST", "/proxies/NAME", '{"enabled": 7}', (400, BODY)),
        ("POST", "/populate", "{}", (400, BODY)),
        ("GET", "/proxies/none/toxics", "", (404, "proxy not found")),
        ("POST", "/proxies/none/toxics", '{"type": "timeout"}', (404, "proxy not found")),
        ("POST", "/proxies/NAME/toxics", "{", (400, BODY)),
        ("POST", "/proxies/NAME/toxics", '{"type": "nonsense"}', (400, "invalid toxic type")),
        (
            "POST",
            "/proxies/NAME/toxics",
            '{"type": "timeout", "stream": "sideways"}',
            (400, "stream was invalid, can be either upstream or downstream"),
        ),
        ("POST", "/proxies/NAME/toxics", '{"type": "slow_close"}', (409, "toxic already exists")),
        ("POST", "/proxies/NAME/toxics", '{"type": "timeout", "toxicity": "all"}', (400, BODY)),
        ("POST", "/proxies/NAME/toxics", '{"type": "timeout", "attributes": 1}', (400, BODY)),
        (
            "POST",
            "/proxies/NAME/toxics",
            '{"type": "timeout", "attributes": {"timeout": "1"}}',
            (400, BODY),
        ),
        (
            "POST",
            "/proxies/NAME/toxics",
            '{"type": "timeout", "attributes": {"timeout": 1.5}}',
            (400, BODY),
        ),
        ("GET", "/proxies/NAME/toxics/none", "", (404, "toxic not found")),
        ("POST", "/proxies/NAME/toxics/none", "{}", (404, "toxic not found")),
        ("PATCH", "/proxies/NAME/toxics/slow_close_downstream", '{"toxicity": "all"}', (400, BODY)),
        ("DELETE", "/proxies/NAME/toxics/none", "", (404, "toxic not found")),
        ("DELETE", "/proxies/none/toxics/none", "", (404, "proxy not found")),
    ],
)
def test_a_refusal_tells_status_and_reason(
    api: Toxiproxy,
    http: httpx2.Client,
    name: str,
    method: str,
    path: str,
    body: str,
    expected: tuple[int, str],
) -> None:
    api.add(name, "slow_close")
    before = api.proxies()
    answer = http.request(method, path.replace("NAME", name), content=body.replace("NAME", name))
    status, error = refused(answer)
    assert (status, error.split(": ")[0] if expected[1] == BODY else error) == expected
    assert api.proxies() == before


@ours_only
@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("latency", {"latency": -1}),
        ("bandwidth", {"rate": 0}),
        ("slicer", {"average_size": 0}),
        ("slicer", {"average_size": 5, "size_variation": 5}),
    ],
)
def test_attributes_without_sense_are_refused(
    http: httpx2.Client, name: str, kind: str, attributes: dict[str, int]
) -> None:
    new = {"type": kind, "attributes": attributes}
    status, error = refused(http.post(f"/proxies/{name}/toxics", json=new))
    assert status == 400
    assert error.startswith("bad request body: attribute ")


@ours_only
def test_a_toxicity_is_a_share(api: Toxiproxy, name: str) -> None:
    with pytest.raises(ToxiproxyError, match="toxicity"):
        api.add(name, "timeout", toxicity=1.5)


def test_a_browser_is_refused(http: httpx2.Client) -> None:
    assert http.get("/proxies", headers={"User-Agent": "Mozilla/5.0 (X11)"}).status_code == 403


def test_it_tells_a_version_that_clients_know(http: httpx2.Client) -> None:
    assert http.get("/version").json()["version"].startswith("2.")


@ours_only
def test_it_listens_to_no_other_machine_unasked(api: Toxiproxy) -> None:
    for listen in ("0.0.0.0:0", ":0", "[::]:0"):
        with pytest.raises(ToxiproxyError, match="loopback") as caught:
            api.create("open", UPSTREAM, listen=listen)
        assert caught.value.status == 400
    assert "open" not in api.proxies()


@ours_only
def test_it_listens_to_other_machines_on_request() -> None:
    async def run() -> None:
        api = Api(everywhere=True)
        new = {"name": "open", "listen": "0.0.0.0:0", "upstream": UPSTREAM}
        answer = await api(Request("POST", "/proxies", {}, json.dumps(new).encode()))
        assert answer.status == 201
        assert api.proxies["open"].enabled
        await api.stop()

    asyncio.run(run())


# The process


@contextmanager
def started(*arguments: str) -> Generator[subprocess.Popen[str]]:
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "postfacta_lab", "proxy", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@ours_only
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_while_connections_live(stop: signal.Signals) -> None:
    with started("--port", "0") as process, serve(echo) as upstream:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("listening on ").strip()
        api = Toxiproxy(url)
        address = api.create("living", upstream)
        api.add("living", "latency", latency=60_000)
        with connect(address) as client, connect(address) as silent:
            client.sendall(b"hello")
            process.send_signal(stop)
            _, errors = process.communicate(timeout=PATIENCE)
            assert (process.returncode, errors) == (0, "")
            for one in (client, silent):
                assert ending(one) in {"end", "reset"}
        with pytest.raises(ConnectionRefusedError):
            connect(address)


@ours_only
def test_a_taken_port_ends_it_with_a_sentence() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        started("--port", str(taken.getsockname()[1])) as it,
    ):
        _, errors = it.communicate(timeout=PATIENCE)
        assert it.returncode == 3
        assert errors.startswith("postfacta: cannot listen on 127.0.0.1:")
