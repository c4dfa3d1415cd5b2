"""Signing in at a Supabase project, and that nothing it does is our crash."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import httpx2
import pytest
from pydantic import SecretStr

from postfacta_app.identity.supabase import Client, SupabaseAccounts
from postfacta_app.settings import Rotation
from postfacta_core.clock import WALL
from postfacta_core.errors import RejectedError
from postfacta_core.guards.timeout import Timeout
from tests.app.live import Service, in_process
from tests.kit.keys import ec_key

from .project import ANON_KEY, EMAIL, SECRET, SUB, FakeProject

if TYPE_CHECKING:
    from .conftest import Realm

Json = dict[str, Any]

PASSWORD = "correct horse battery"  # noqa: S105 - of nobody
WRONG = "Wrong e-mail or password"
USER: Json = {"id": str(SUB), "aud": "authenticated", "role": "", "email": EMAIL, "identities": []}
BROKEN: list[tuple[int, Json | str]] = [
    (500, {"code": 500, "error_code": "unexpected_failure", "msg": "Database error"}),
    (502, "<html><h1>502 Bad Gateway</h1></html>"),
    (503, ""),
    (504, "upstream request timeout"),
    (200, "<html>It works!</html>"),
    (200, {}),
    (200, {"access_token": 7, "id": 7}),
    (200, "[" * 20_000),
    (200, "x" * 70_000),
    (302, ""),
    (401, {"message": "Invalid API key"}),
    (404, "not found"),
    (400, {"code": 400, "error_code": "captcha_failed", "msg": "no"}),
    (400, {"code": 400, "error_code": ["invalid_credentials"], "msg": "Invalid login credentials"}),
]


def session(token: str) -> tuple[int, Json]:
    """Answer as GoTrue does to a right password."""
    user = USER | {"user_metadata": {"postfacta_role": "admin"}}
    body: Json = {"access_token": token, "token_type": "bearer", "expires_in": 3600, "user": user}
    return 200, body | {"refresh_token": "refresh-me-5f2c", "weak_password": None}


def refusal(code: str, status: int = 400) -> tuple[int, Json]:
    return status, {"code": status, "error_code": code, "msg": "Invalid login credentials"}


async def log_in(realm: Realm, email: str = EMAIL, password: str = PASSWORD) -> httpx2.Response:
    return await realm.client.post("/login", json={"email": email, "password": password})


# Signing in


async def test_a_right_password_is_answered_with_the_projects_own_token(realm: Realm) -> None:
    token = realm.token(app_metadata={"postfacta_role": "responder"})
    realm.project.answer = session(token)
    answer = await log_in(realm, email=" Ada@Example.org ")
    assert answer.status_code == 200
    body = answer.json()
    assert (list(body), body["token"], body["type"]) == (
        ["token", "type", "expires_at"],
        token,
        "Bearer",
    )
    assert body["expires_at"] == "2026-03-01T13:00:30.000000Z"
    assert answer.headers["cache-control"] == "no-store"
    assert (await realm.get(token)).json()["role"] == "responder"
    [(path, headers, sent)] = realm.project.requests
    assert (path, sent) == ("/token?grant_type=password", {"email": EMAIL, "password": PASSWORD})
    assert headers["apikey"] == ANON_KEY
    # It is somebody else's service: it is told nothing of the request.
    assert not {"x-request-timeout", "x-priority", "traceparent", "authorization"} & headers.keys()
    assert realm.attempts == ["ok"]
    # It is not kept, not even as a hash; that somebody signed in is.
    assert await realm.world.database.fetch("select * from tokens", operation="test") == []
    audit = await realm.world.database.fetch(
        "select action from audit_log order by seq", operation="test"
    )
    assert [row["action"] for row in audit] == ["user.create", "session.begin"]


async def test_a_new_key_is_sent_with_the_next_request(realm: Realm) -> None:
    settings = realm.project.settings()
    rotation = Rotation(
        settings, lambda: settings.model_copy(update={"db_key": SecretStr("another key")})
    )
    async with Client("gotrue", rotation, Timeout(20)) as client:
        assert (await client.ask("GET", "settings"))[0] == 200
        rotation.reread()
        assert (await client.ask("GET", "settings"))[0] == 401


REFUSALS: list[tuple[int, Json]] = [
    refusal("invalid_credentials"),
    refusal("email_not_confirmed"),
    refusal("user_banned", 403),
    refusal("validation_failed", 422),
    (400, {"code": "invalid_credentials", "message": "As newer versions of the API say it"}),
    (400, {"error": "invalid_grant", "error_description": "As older ones do"}),
]


async def test_every_rejected_sign_in_has_the_same_answer(realm: Realm) -> None:
    for number, realm.project.answer in enumerate(REFUSALS):
        answered = await log_in(realm, email=f"{number}@example.org")
        assert (answered.status_code, answered.json()["detail"]) == (401, WRONG), (
            realm.project.answer
        )
    assert realm.attempts == ["bad_credentials"] * len(REFUSALS)


async def test_who_is_disabled_here_learns_no_more(realm: Realm) -> None:
    realm.project.answer = session(realm.token())
    assert (await log_in(realm)).status_code == 200
    await realm.world.database.execute("update users set disabled_at = now()", operation="test")
    answer = await log_in(realm)
    assert (answer.status_code, answer.json()["detail"]) == (401, WRONG)
    assert realm.attempts == ["ok", "revoked"]


@pytest.mark.parametrize(("said", "wait"), [("", "1"), ("7", "7"), ("nonsense", "1")])
async def test_too_many_tries_there_are_too_many_here(realm: Realm, said: str, wait: str) -> None:
    realm.project.answer, realm.project.retry_after = refusal("over_request_rate_limit", 429), said
    answer = await log_in(realm)
    assert (answer.status_code, answer.json()["slug"]) == (429, "rate-limited")
    assert answer.headers["Retry-After"] == wait
    assert realm.attempts == ["limited"]


async def test_our_own_limits_spare_the_project(realm: Realm) -> None:
    codes = [(await log_in(realm)).status_code for _ in range(6)]
    assert codes == [401] * 5 + [429]
    assert len(realm.project.requests) == 5
    assert realm.attempts[-1] == "limited"


async def test_what_the_project_cannot_do_is_unavailable_and_never_a_wrong_password(
    realm: Realm,
) -> None:
    for number, realm.project.answer in enumerate(BROKEN):
        realm.world.pass_time(60)
        with pytest.raises(RejectedError) as caught:
            await log_in(realm, email=f"{number}@example.org")
        assert caught.value.retry_after == 5
    assert realm.attempts == []


async def test_a_project_that_does_not_answer_is_not_waited_for(realm: Realm) -> None:
    realm.project.answer, world = (200, "slow"), realm.world
    settings = realm.project.settings()
    async with Client("gotrue", Rotation(settings), Timeout(0.1)) as hasty:
        accounts = SupabaseAccounts(Rotation(settings), hasty, realm.jwks, world.transactions)
        client, _ = world.instance(settings, accounts)
        sent = {"email": EMAIL, "password": PASSWORD}
        async with client:
            with pytest.raises(RejectedError):
                await client.post("/login", json=sent)


async def test_a_token_that_the_service_cannot_check_is_the_operators_affair(
    realm: Realm, caplog: pytest.LogCaptureFixture
) -> None:
    for token in (
        realm.token(by=ec_key("another")),
        realm.token(iss="https://other"),
        "no token",
        "",
    ):
        realm.project.answer = session(token)
        with pytest.raises(RejectedError):
            await log_in(realm)
    told = [
        vars(record)["reason"] for record in caplog.records if record.message == "gotrue.unusable"
    ]
    assert told == ["token_refused"] * 4


async def test_people_are_added_in_the_project_and_not_here(realm: Realm) -> None:
    await realm.get(realm.token())
    await realm.world.database.execute("update users set role = 'admin'", operation="test")
    realm.world.pass_time(11)
    headers = {"Authorization": f"Bearer {realm.token()}"}
    new = {"email": "bob@example.org", "password": PASSWORD}
    for path in ("/api/v1/users", "/register"):
        answer = await realm.client.post(path, json=new, headers=headers)
        assert (answer.status_code, answer.json()["slug"]) == (403, "registration-closed")
        assert "Supabase" in answer.json()["detail"]
    assert realm.project.requests == []


# The whole service


@pytest.fixture
async def service(app_database_dsn: str, project: FakeProject) -> AsyncGenerator[Service]:
    async with in_process(app_database_dsn, **project.given, register_open=True) as running:
        yield running


async def submit(service: Service, **fields: str) -> httpx2.Response:
    form = {"email": EMAIL, "password": PASSWORD, "next": "/reliability"} | fields
    return await service.client.post(
        "/signin",
        content=urlencode(form).encode(),
        headers={"Sec-Fetch-Site": "same-origin", "Accept": "text/html"},
    )


async def test_the_sign_in_page_begins_a_session_of_half_a_day_that_signing_out_ends(
    service: Service, project: FakeProject
) -> None:
    token = project.token(WALL())
    project.answer = session(token)
    answer = await submit(service)
    assert (answer.status_code, answer.headers["location"]) == (303, "/reliability")
    cookie = answer.headers["set-cookie"]
    found = re.search(r"; Max-Age=(\d+); Path=/; HttpOnly; SameSite=Lax$", cookie)
    assert found is not None
    assert 43_140 < int(found[1]) <= 43_200
    assert token not in cookie
    assert (await service.client.get("/reliability")).status_code == 200
    assert (await service.client.get("/api/v1/me")).json()["role"] == "viewer"
    csrf = (
        (await service.client.get("/incidents"))
        .text.partition('name="csrf" value="')[2]
        .partition('"')[0]
    )
    out = await service.client.post(
        "/signout", content=f"csrf={csrf}".encode(), headers={"Sec-Fetch-Site": "same-origin"}
    )
    assert out.status_code == 303
    service.client.cookies.clear()
    ended = {"Cookie": cookie.partition(";")[0]}
    assert (await service.client.get("/api/v1/me", headers=ended)).status_code == 401


async def test_the_sign_in_page_says_what_is_wrong_and_what_is_away(
    service: Service, project: FakeProject
) -> None:
    wrong = await submit(service)
    assert (wrong.status_code, WRONG in wrong.text) == (401, True)
    project.answer = (502, "<h1>Bad Gateway</h1>")
    away = await submit(service)
    assert (away.status_code, away.headers["Retry-After"]) == (503, "5")
    assert "Sign-in is temporarily unavailable" in away.text
    assert PASSWORD not in away.text


async def test_a_project_that_is_down_is_left_in_peace_and_those_who_are_signed_in_go_on(
    service: Service, project: FakeProject
) -> None:
    project.answer = (500, "<h1>Oh</h1>")
    headers = {"Authorization": f"Bearer {project.token(WALL())}"}
    for number in range(10):
        login = {"email": f"{number}@example.org", "password": PASSWORD}
        answer = await service.client.post("/login", json=login)
        assert answer.status_code == 503
        assert answer.headers["content-type"].startswith("application/json")
        assert int(answer.headers["Retry-After"]) >= 1
        assert (await service.client.get("/api/v1/me", headers=headers)).status_code == 200
    assert len(project.requests) == 5


async def test_a_service_that_never_had_the_keys_says_so_and_takes_what_the_secret_signs(
    app_database_dsn: str, project: FakeProject
) -> None:
    project.published = "down"
    async with in_process(app_database_dsn, **project.given) as service:
        for by, status in ((None, 503), (SECRET, 200)):
            headers = {"Authorization": f"Bearer {project.token(WALL(), by=by)}"}
            answer = await service.client.get("/api/v1/me", headers=headers)
            assert answer.status_code == status
            assert (1 <= int(answer.headers.get("Retry-After", 0)) <= 30) == (status == 503)
    assert project.fetches == 1


async def test_no_secret_is_in_a_log_line_a_problem_or_a_metric(
    service: Service, project: FakeProject, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = project.token(WALL())
    project.answer = session(token)
    headers = {"Authorization": f"Bearer {token}"}
    login = {"email": EMAIL, "password": PASSWORD}
    assert (await service.client.post("/login", json=login)).status_code == 200
    answers = [
        await service.client.get("/api/v1/me", headers=headers),
        await service.client.get("/api/v1/incidents?nonsense=1", headers=headers),
        await service.client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}x"}),
        await service.client.post("/register", json=login),
        await submit(service),
    ]
    for project.answer in BROKEN[:3]:
        answers += [await service.client.post("/login", json=login)]
    answers += [await service.client.get("/metrics")]
    assert "postfacta_jwks_age_seconds" in answers[-1].text
    assert caplog.records
    sinks = [str(vars(record)) for record in caplog.records]
    sinks += [f"{answer.headers}{answer.text}" for answer in answers]
    for secret in (token, token.rpartition(".")[2], PASSWORD, SECRET, ANON_KEY, "refresh-me-5f2c"):
        assert [sink for sink in sinks if secret in sink] == []
