"""How much may be sent where, and that what is refused is refused in the shape that its path promises."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator

import httpx2
import pytest

from tests.app.live import NEW, START, Service, in_process
from tests.kit.every import every

KIB = 1024
HEADERS = 32_768
# Method, path, the most bytes of body (section 10.3 of the design).
ROUTES = [
    ("POST", "/api/v0/incidents/start", 1024 * KIB),
    ("POST", "/api/v1/incidents", 1024 * KIB),
    ("PATCH", "/api/v1/incidents/INC-1", 1024 * KIB),
    ("DELETE", "/api/v1/incidents/INC-1", 1024 * KIB),
    ("POST", "/api/v1/incidents/INC-1/transitions", 1024 * KIB),
    ("POST", "/api/v1/signals", 4096 * KIB),
    ("POST", "/api/v1/ingest/alertmanager", 4096 * KIB),
    ("POST", "/api/v1/incidents/INC-1/signals", 1024 * KIB),
    ("POST", "/api/v1/users", 1024 * KIB),
    ("POST", "/login", 16 * KIB),
    ("POST", "/register", 16 * KIB),
    ("POST", "/signin", 16 * KIB),
    ("GET", "/", 0),
    ("GET", "/api/v0/incidents", 0),
    ("GET", "/api/v1/incidents", 0),
    ("GET", "/api/v1/incidents/INC-1", 0),
    ("GET", "/incidents", 0),
    ("GET", "/does-not-exist", 0),
]


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    async with in_process(shared_app_dsn) as running:
        yield running


def assert_refused(answer: httpx2.Response, path: str, status: int, slug: str) -> None:
    assert answer.status_code == status, answer.text
    body = answer.json()
    if path.startswith("/api/v1/"):
        assert answer.headers["content-type"] == "application/problem+json"
        assert (body["type"], body["status"]) == (f"/problems/{slug}", status)
        assert (body["instance"], body["request_id"]) == (path, answer.headers["X-Request-ID"])
    else:
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert body.keys() == {"message", "requestId"}
        assert body["requestId"] == answer.headers["X-Request-ID"]
    assert answer.headers["cache-control"] == "no-store"


async def in_pieces(size: int) -> AsyncIterator[bytes]:
    while size > 0:
        yield b"x" * min(size, 10_000)
        size -= 10_000


@pytest.mark.parametrize("how", ["declared", "chunked"])
async def test_one_byte_too_many_is_413_and_as_many_as_allowed_are_read(
    service: Service, how: str
) -> None:
    headers = await service.as_role("admin") | {
        "Content-Type": "application/json",
        "If-Match": '"inc-1"',
        "Sec-Fetch-Site": "same-origin",
    }
    with every() as case:
        for method, path, most in ROUTES:
            # What never reads its body cannot notice; what reads it must.
            if how == "chunked" and (method not in {"POST", "PATCH"} or "register" in path):
                continue
            over = b"x" * (most + 1) if how == "declared" else in_pieces(most + 1)
            with case(method, path):
                answer = await service.client.request(method, path, content=over, headers=headers)
                assert_refused(answer, path, 413, "too-large")
                taken = await service.client.request(
                    method, path, content=b"x" * most, headers=headers
                )
                assert taken.status_code != 413


@pytest.mark.parametrize("declares", [True, False])
@pytest.mark.parametrize("path", ["/api/v0/incidents/start", "/api/v1/incidents"])
async def test_a_valid_incident_of_a_mebibyte_is_taken_and_one_byte_more_is_not(
    service: Service, path: str, *, declares: bool
) -> None:
    body = json.dumps(START if "v0" in path else NEW).encode()
    headers = await service.as_role("responder") | {"Content-Type": "application/json"}
    before = await service.rows()

    async def padded(size: int) -> httpx2.Response:
        text = body + b" " * (size - len(body))

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, size, 100_000):
                yield text[at : at + 100_000]

        return await service.client.post(
            path, content=text if declares else pieces(), headers=headers
        )

    assert_refused(await padded(1024 * KIB + 1), path, 413, "too-large")
    assert await service.rows() == before | {"users": before["users"], "tokens": before["tokens"]}
    assert (await padded(1024 * KIB)).status_code == 201


async def test_too_large_a_header_section_is_431(service: Service) -> None:
    paths = (
        "/",
        "/api/v0/incidents",
        "/api/v1/incidents",
        "/login",
        "/incidents",
        "/static/postfacta.css",
    )
    with every() as case:
        for path in (*paths, "/nowhere"):
            with case(path):
                one = await service.client.get(path, headers={"X-Filler": "x" * HEADERS})
                many = await service.client.get(path, headers=[("X-Filler", "")] * (HEADERS // 32))
                for answer in (one, many):
                    assert_refused(answer, path, 431, "headers-too-large")
                passed = await service.client.get(path, headers={"X-Filler": "x" * 5000})
                assert passed.status_code != 431


async def test_a_browser_gets_a_page_that_says_it(service: Service) -> None:
    answer = await service.client.get(
        "/incidents", headers={"Accept": "text/html", "X-Filler": "x" * HEADERS}
    )
    assert answer.status_code == 431
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["X-Request-ID"] in answer.text


async def test_probes_and_metrics_answer_whatever_is_sent_along(service: Service) -> None:
    for path in ("/healthz/live", "/metrics"):
        answer = await service.client.get(path, headers={"X-Filler": "x" * HEADERS})
        assert answer.status_code == 200
