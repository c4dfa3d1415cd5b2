"""The guard authenticates requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from postfacta_app.db import Query
from postfacta_app.identity import accounts, guard
from postfacta_app.identity.model import Credential
from postfacta_app.principal import Role
from postfacta_app.settings import Settings
from postfacta_core.clock import MONOTONIC
from postfacta_core.context import RequestContext, bind_request, release_request
from postfacta_core.errors import DatabaseUnavailableError

if TYPE_CHECKING:
    from .conftest import World

NEVER_MADE = "x" * 43
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


async def whoami(world: World, headers: dict[str, str]) -> str:
    answer = await world.client.get("/who", headers=headers)
    assert answer.status_code == 200
    return str(answer.json()["actor"])


async def test_without_credentials_the_caller_is_unauthenticated(world: World) -> None:
    assert await whoami(world, {}) == "nobody"
    answer = await world.client.get("/read")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(
    "value",
    [
        "Basic YTpi",
        "Bearer",
        "Bearer short",
        f"Bearer {NEVER_MADE}",
        f"Bearer pf_12345678_{NEVER_MADE}",
        "",
        "Bearer \xff",
    ],
    ids=ascii,
)
async def test_credentials_that_prove_nothing_are_refused_even_on_an_open_route(
    world: World, value: str
) -> None:
    answer = await world.client.get("/who", headers={b"Authorization": value.encode("latin-1")})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


async def test_two_authorization_headers_are_refused(world: World) -> None:
    await world.person("ada@example.org")
    good = await world.login("ada@example.org")
    headers = [*good.items(), *good.items()]
    assert (await world.client.get("/who", headers=headers)).status_code == 401


async def test_probes_and_sign_in_do_not_look_at_credentials(world: World) -> None:
    await world.person("ada@example.org")
    stale = {"Authorization": f"Bearer {NEVER_MADE}"}
    assert (await world.client.get("/healthz", headers=stale)).status_code == 200
    answer = await world.client.post(
        "/login", headers=stale, json={"email": "ada@example.org", "password": "wrong"}
    )
    assert answer.json()["slug"] == "unauthenticated"
    assert "e-mail" in answer.json()["detail"]


async def test_a_session_ends_after_twelve_idle_hours_and_use_keeps_it(world: World) -> None:
    ada = await world.person("ada@example.org")
    cookie = await world.cookie(ada)
    for _ in range(3):
        world.pass_time(11 * 3600)
        assert await whoami(world, cookie) == f"user:{ada.id}"
    world.pass_time(12 * 3600)
    assert await whoami(world, cookie) == "nobody"


async def test_no_use_keeps_a_session_beyond_a_week(world: World) -> None:
    ada = await world.person("ada@example.org")
    cookie = await world.cookie(ada)
    for _ in range(15):
        world.pass_time(11 * 3600)
        assert await whoami(world, cookie) == f"user:{ada.id}"
    world.pass_time(3 * 3600)
    assert await whoami(world, cookie) == "nobody"


async def test_the_secret_of_a_session_is_no_bearer_token_and_the_other_way_round(
    world: World,
) -> None:
    ada = await world.person("ada@example.org")
    cookie, header = await world.cookie(ada), await world.login("ada@example.org")
    session = cookie["Cookie"].partition("=")[2]
    bearer = header["Authorization"].partition(" ")[2]
    assert (
        await world.client.get("/who", headers={"Authorization": f"Bearer {session}"})
    ).status_code == 401
    assert await whoami(world, {"Cookie": f"postfacta={bearer}"}) == "nobody"
    assert await whoami(world, {"Cookie": f"__Host-postfacta={session}"}) == "nobody"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        (SAME_ORIGIN, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
    ids=str,
)
async def test_a_page_of_another_site_cannot_use_the_cookie_to_write(
    world: World, headers: dict[str, str], status: int
) -> None:
    cookie = await world.cookie(await world.person("ada@example.org", Role.RESPONDER))
    assert (await world.client.post("/write", headers=cookie | headers)).status_code == status
    assert (await world.client.get("/read", headers=cookie | headers)).status_code == 200


async def test_a_bearer_token_needs_no_origin(world: World) -> None:
    await world.person("ada@example.org", Role.RESPONDER)
    header = await world.login("ada@example.org")
    evil = {"Origin": "https://evil.example"}
    assert (await world.client.post("/write", headers=header | evil)).status_code == 200


async def test_only_a_session_has_a_form_token(world: World) -> None:
    ada = await world.person("ada@example.org")
    cookie, header = await world.cookie(ada), await world.login("ada@example.org")
    assert len((await world.client.get("/who", headers=cookie)).json()["csrf"]) == 64
    assert (await world.client.get("/who", headers=header)).json()["csrf"] is None


async def test_a_stranger_learns_nothing_from_the_prefix_of_a_token(world: World) -> None:
    admin = await world.admin()
    answer = await world.client.post(
        "/api/v1/tokens", headers=admin, json={"name": "ci", "scopes": ["incidents:read"]}
    )
    secret = answer.json()["secret"]
    for guess in (secret[:-43] + NEVER_MADE, secret[-43:]):
        answer = await world.client.get("/who", headers={"Authorization": f"Bearer {guess}"})
        assert answer.status_code == 401


async def test_a_machine_is_known_by_its_token_and_source(world: World) -> None:
    admin = await world.admin()
    body = {"name": "ci", "scopes": ["signals:write"], "source": "ci"}
    made = (await world.client.post("/api/v1/tokens", headers=admin, json=body)).json()
    header = {"Authorization": f"Bearer {made['secret']}"}
    me = (await world.client.get("/api/v1/me", headers=header)).json()
    assert (me["actor"], me["role"], me["source"]) == (f"token:{made['id']}", None, "ci")


async def test_a_revocation_works_here_at_once_and_in_another_process_within_ten_seconds(
    world: World,
) -> None:
    await world.person("ada@example.org")
    header = await world.login("ada@example.org")
    other, _ = world.instance(world.settings)
    async with other:
        assert (await other.get("/read", headers=header)).status_code == 200
        assert (await world.client.get("/read", headers=header)).status_code == 200
        assert (await world.client.post("/logout", headers=header)).status_code == 204
        assert (await world.client.get("/read", headers=header)).status_code == 401
        world.pass_time(9.9)
        assert (await other.get("/read", headers=header)).status_code == 200
        world.pass_time(0.1)
        assert (await other.get("/read", headers=header)).status_code == 401


async def test_what_is_revoked_while_it_is_looked_up_is_not_trusted_afterwards(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.person("ada@example.org")
    header = await world.login("ada@example.org")
    looked, go_on, fetch = asyncio.Event(), asyncio.Event(), accounts.credential

    async def slowly(q: Query, sha256: bytes, prefix: str | None) -> Credential | None:
        found = await fetch(q, sha256, prefix)
        looked.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(accounts, "credential", slowly)
    async with asyncio.TaskGroup() as group:
        early = group.create_task(world.client.get("/read", headers=header))
        await looked.wait()
        monkeypatch.setattr(accounts, "credential", fetch)
        assert (await world.client.post("/logout", headers=header)).status_code == 204
        go_on.set()
    assert early.result().status_code == 200
    assert (await world.client.get("/read", headers=header)).status_code == 401


async def test_a_trusted_token_costs_no_query_and_ends_at_its_time_nevertheless(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.person("ada@example.org")
    header = await world.login("ada@example.org")
    world.pass_time(86_395)
    assert (await world.client.get("/read", headers=header)).status_code == 200

    async def unreachable(q: Query, sha256: bytes, prefix: str | None) -> Credential | None:
        raise AssertionError("asked the database")

    monkeypatch.setattr(accounts, "credential", unreachable)
    assert (await world.client.get("/read", headers=header)).status_code == 200
    world.pass_time(5)
    assert (await world.client.get("/read", headers=header)).status_code == 401


async def _away(q: Query, sha256: bytes, prefix: str | None) -> Credential | None:
    raise DatabaseUnavailableError("postgres", 1.0)


@pytest.mark.parametrize("proof", ["bearer", "session"])
async def test_in_an_outage_recently_verified_callers_may_read(
    world: World, monkeypatch: pytest.MonkeyPatch, proof: str
) -> None:
    ada = await world.person("ada@example.org", Role.RESPONDER)
    header = await world.login("ada@example.org") if proof == "bearer" else await world.cookie(ada)
    fetch = accounts.credential
    assert (await world.client.get("/read", headers=header)).status_code == 200
    world.pass_time(899.9)
    monkeypatch.setattr(accounts, "credential", _away)
    assert (await world.client.get("/read", headers=header)).status_code == 200
    with pytest.raises(DatabaseUnavailableError):
        await world.client.post("/write", headers=header | SAME_ORIGIN)
    world.pass_time(0.1)
    with pytest.raises(DatabaseUnavailableError):
        await world.client.get("/read", headers=header)
    monkeypatch.setattr(accounts, "credential", fetch)
    assert (await world.client.get("/read", headers=header)).status_code == 200


async def test_a_token_ends_at_its_time_also_while_the_database_is_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.person("ada@example.org")
    header = await world.login("ada@example.org")
    world.pass_time(86_399 - 60)
    assert (await world.client.get("/read", headers=header)).status_code == 200
    monkeypatch.setattr(accounts, "credential", _away)
    world.pass_time(60)
    assert (await world.client.get("/read", headers=header)).status_code == 200
    world.pass_time(1)
    assert (await world.client.get("/read", headers=header)).status_code == 401


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_what_was_found_revoked_is_not_believed_while_the_database_is_away_and_all_others_are(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    await world.person("ada@example.org")
    await world.person("bob@example.org")
    ada, also_ada, bob = [
        await world.login(f"{name}@example.org") for name in ("ada", "ada", "bob")
    ]
    for header in (ada, also_ada, bob):
        assert (await world.client.get("/read", headers=header)).status_code == 200
    other, _ = world.instance(world.settings)
    async with other:
        at = world.client if where == "here" else other
        assert (await at.post("/logout", headers=ada)).status_code == 204
    world.pass_time(10)
    if where == "elsewhere":
        assert (await world.client.get("/read", headers=ada)).status_code == 401
    monkeypatch.setattr(accounts, "credential", _away)
    with pytest.raises(DatabaseUnavailableError):
        await world.client.get("/read", headers=ada)
    for header in (also_ada, bob):
        assert (await world.client.get("/read", headers=header)).status_code == 200


async def test_who_is_disabled_or_gets_another_role_is_not_believed_by_any_token_of_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, ada = await world.admin(), await world.person("ada@example.org")
    headers = [await world.login("ada@example.org"), await world.cookie(ada)]
    for header in headers:
        assert (await world.client.get("/read", headers=header)).status_code == 200
    changed = await world.client.patch(
        f"/api/v1/users/{ada.id}", headers=admin | {"If-Match": ada.etag}, json={"disabled": True}
    )
    assert changed.status_code == 200
    monkeypatch.setattr(accounts, "credential", _away)
    for header in headers:
        with pytest.raises(DatabaseUnavailableError):
            await world.client.get("/read", headers=header)
    assert (await world.client.get("/admin", headers=admin)).status_code == 200


async def test_a_revoked_api_token_is_not_believed_while_the_database_is_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = await world.admin()
    body = {"name": "ci", "scopes": ["incidents:read"]}
    made = [
        (await world.client.post("/api/v1/tokens", headers=admin, json=body)).json()
        for _ in range(2)
    ]
    gone, kept = ({"Authorization": f"Bearer {it['secret']}"} for it in made)
    for header in (gone, kept):
        assert (await world.client.get("/read", headers=header)).status_code == 200
    assert (
        await world.client.delete(f"/api/v1/tokens/{made[0]['id']}", headers=admin)
    ).status_code == 204
    monkeypatch.setattr(accounts, "credential", _away)
    with pytest.raises(DatabaseUnavailableError):
        await world.client.get("/read", headers=gone)
    assert (await world.client.get("/read", headers=kept)).status_code == 200


async def test_trusted_tokens_are_bounded_and_the_oldest_is_dropped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_MOST_TRUSTED", 2)
    await world.person("ada@example.org")
    headers = [await world.login("ada@example.org") for _ in range(3)]
    for header in headers:
        await whoami(world, header)
    fetch, asked = accounts.credential, 0

    async def count(q: Query, sha256: bytes, prefix: str | None) -> Credential | None:
        nonlocal asked
        asked += 1
        return await fetch(q, sha256, prefix)

    monkeypatch.setattr(accounts, "credential", count)
    await whoami(world, headers[2])
    await whoami(world, headers[1])
    assert asked == 0
    await whoami(world, headers[0])
    assert asked == 1


async def test_use_is_noted_at_most_once_a_minute(world: World) -> None:
    ada = await world.person("ada@example.org")
    cookie = await world.cookie(ada)
    seen: list[object] = []
    for seconds in (0, 30, 29, 11, 49):
        world.pass_time(seconds)
        await whoami(world, cookie)
        row = await world.database.fetchrow("select last_used_at from tokens", operation="test")
        assert row is not None
        seen.append(row["last_used_at"])
    assert seen[0] == seen[1] == seen[2]
    assert seen[3] != seen[2]
    assert seen[3] == seen[4]


async def test_the_access_line_learns_who_asks(world: World) -> None:
    ada = await world.person("ada@example.org")
    header = await world.login("ada@example.org")
    context = RequestContext("0123456789abcdef", MONOTONIC())
    token = bind_request(context)
    await world.client.get("/who", headers=header)
    release_request(token)
    assert context.principal == f"user:{ada.id}"


# Mode none


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8080", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("LOCALHOST", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("192.0.2.1:8080", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
async def test_without_sign_in_only_the_names_of_this_machine_are_answered(
    world: World, host: str, status: int
) -> None:
    client, _ = world.instance(Settings.model_validate({"auth_mode": "none"}))
    async with client:
        answer = await client.get("/who", headers={"Host": host})
    assert answer.status_code == status
    assert status == 403 or answer.json()["actor"] == "anonymous"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://friend.example"}, 200),
    ],
    ids=str,
)
async def test_without_sign_in_pages_of_other_sites_cannot_write(
    world: World, headers: dict[str, str], status: int
) -> None:
    settings = Settings.model_validate(
        {"auth_mode": "none", "cors_origins": "https://friend.example"}
    )
    client, _ = world.instance(settings)
    async with client:
        assert (await client.post("/write", headers=headers)).status_code == status
        assert (await client.get("/read", headers=headers)).status_code == 200
        assert (await client.get("/admin", headers=headers)).status_code == 403
