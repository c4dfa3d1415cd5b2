"""Which pages of other sites may call, and the headers that protect those of ours."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

import pytest

from postfacta_app.settings import SettingsError, load_settings
from tests.app.live import Service, in_process
from tests.app.v0_app import FailingStore

LISTED = "https://console.example.org"
FOREIGN = "https://evil.example.net"
SECURITY = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    async with in_process(shared_app_dsn, cors_origins=LISTED) as running:
        yield running


def cors(headers: Mapping[str, str]) -> set[str]:
    return {name for name in headers if name.startswith("access-control-")}


def preflight(origin: str, method: str = "POST", *headers: str) -> dict[str, str]:
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    return asked | ({"Access-Control-Request-Headers": ", ".join(headers)} if headers else {})


async def test_a_listed_origin_may_read_the_answer_and_our_headers(service: Service) -> None:
    answer = await service.client.get("/home", headers={"Origin": LISTED})
    assert answer.headers["access-control-allow-origin"] == LISTED
    exposed = answer.headers["access-control-expose-headers"]
    assert {"ETag", "Link", "Location", "Retry-After", "X-Request-ID"} <= set(exposed.split(", "))
    assert "Origin" in answer.headers["vary"]
    assert "access-control-allow-credentials" not in answer.headers


async def test_a_preflight_of_a_listed_origin_is_granted_for_our_methods_and_headers(
    service: Service,
) -> None:
    asked = ("Authorization", "Content-Type", "If-Match", "If-None-Match", "Idempotency-Key")
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        answer = await service.client.options(
            "/api/v1/incidents", headers=preflight(LISTED, method, *asked)
        )
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == LISTED
        assert method in answer.headers["access-control-allow-methods"]


@pytest.mark.parametrize(
    "asked",
    [preflight(FOREIGN), preflight(LISTED, "TRACE"), preflight(LISTED, "POST", "X-Admin")],
    ids=str,
)
async def test_any_other_preflight_is_refused(service: Service, asked: dict[str, str]) -> None:
    answer = await service.client.options("/api/v1/incidents", headers=asked)
    assert answer.status_code == 400


async def test_without_a_setting_no_origin_is_allowed(app_database_dsn: str) -> None:
    async with in_process(app_database_dsn) as service:
        assert not cors((await service.client.get("/home", headers={"Origin": LISTED})).headers) - {
            "access-control-expose-headers"
        }
        assert (await service.client.options("/home", headers=preflight(LISTED))).status_code == 400


async def test_credentials_are_granted_to_listed_origins_alone(app_database_dsn: str) -> None:
    async with in_process(app_database_dsn, cors_origins=LISTED, cors_credentials=True) as service:
        listed = (await service.client.get("/home", headers={"Origin": LISTED})).headers
        assert (
            listed["access-control-allow-credentials"],
            listed["access-control-allow-origin"],
        ) == (
            "true",
            LISTED,
        )
        foreign = (await service.client.get("/home", headers={"Origin": FOREIGN})).headers
        assert "access-control-allow-origin" not in foreign


async def test_a_star_allows_all_origins_without_credentials(app_database_dsn: str) -> None:
    async with in_process(app_database_dsn, cors_origins="*") as service:
        answer = await service.client.get(
            "/home", headers={"Origin": FOREIGN, "Cookie": "postfacta=x"}
        )
        assert answer.headers["access-control-allow-origin"] in {"*", FOREIGN}
        assert "access-control-allow-credentials" not in answer.headers
    with pytest.raises(SettingsError, match="POSTFACTA_CORS_ORIGINS"):
        load_settings({}, cors_origins="*", cors_credentials=True)


@pytest.mark.parametrize("local", [True, False])
async def test_every_kind_of_answer_carries_the_security_headers(
    app_database_dsn: str, *, local: bool
) -> None:
    environment = "local" if local else "production"
    async with in_process(
        app_database_dsn, v0_store=FailingStore(), environment=environment
    ) as service:
        viewer, big = await service.as_role("viewer"), b"x" * 20_000
        answers = {
            "answer": (200, await service.client.get("/home")),
            "page": (200, await service.client.get("/signin")),
            "static": (200, await service.client.get("/static/postfacta.css")),
            "no static": (404, await service.client.get("/static/../app.py")),
            "probe": (200, await service.client.get("/healthz/live")),
            "metrics": (200 if local else 401, await service.client.get("/metrics")),
            "redirect": (301, await service.client.get("/home/")),
            "unauthenticated": (401, await service.client.get("/api/v1/me")),
            "forbidden": (403, await service.client.get("/api/v1/users", headers=viewer)),
            "nowhere": (404, await service.client.get("/nowhere", headers={"Accept": "text/html"})),
            "method": (405, await service.client.post("/home")),
            "too large": (413, await service.client.post("/login", content=big)),
            "crash": (500, await service.client.get("/api/v0/incidents", headers=viewer)),
            "preflight": (400, await service.client.options("/home", headers=preflight(FOREIGN))),
        }
    for kind, (status, answer) in answers.items():
        assert answer.status_code == status, kind
        for name, value in SECURITY.items():
            assert answer.headers.get_list(name) == [value], (kind, name)
        strict = answer.headers.get("strict-transport-security")
        assert strict == (None if local else "max-age=31536000"), kind
        assert "server" not in answer.headers
