"""A password is changed or reset, and sessions are listed and ended: by the API and by pages."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from argon2 import PasswordHasher

from postfacta_app.db import Reader, Unit
from postfacta_app.identity import accounts
from postfacta_app.identity.accounts import Passwords, losses
from postfacta_app.principal import NOBODY
from postfacta_postgres import Database
from tests.app.live import Service, in_process
from tests.app.screen import Screen

OLD, NEW = "correct horse battery", "staple battery horse"


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        # Tries that take long come back while they are counted.
        patch.setattr(
            accounts,
            "PasswordHasher",
            partial(PasswordHasher, time_cost=1, memory_cost=8, parallelism=1),
        )
        async with in_process(shared_app_dsn) as running:
            yield running


@dataclass
class Person:
    """A person with a password, and an administrator."""

    service: Service
    id: str
    email: str
    admin: dict[str, str]

    async def login(self, password: str = OLD) -> httpx2.Response:
        return await self.post("/login", json={"email": self.email, "password": password})

    async def post(self, path: str, **request: Any) -> httpx2.Response:
        """Send from an address of this person's own: tries are counted for each."""
        digits = UUID(self.id).bytes
        transport = httpx2.ASGITransport(
            self.service.app, client=(f"10.{digits[0]}.{digits[1]}.{digits[2]}", 1)
        )
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post(path, **request)

    async def bearer(self, password: str = OLD) -> dict[str, str]:
        answer = await self.login(password)
        assert answer.status_code == 200, answer.text
        return {"Authorization": f"Bearer {answer.json()['token']}"}

    async def send(
        self, method: str, path: str, headers: dict[str, str], *, expect: int, **more: Any
    ) -> Any:
        path = path.replace("{id}", self.id)
        answer = await self.service.client.request(
            method, f"/api/v1{path}", headers=headers, **more
        )
        assert answer.status_code == expect, answer.text
        return answer.json() if answer.content else None

    async def is_in(self, headers: dict[str, str]) -> bool:
        return (await self.service.client.get("/api/v1/me", headers=headers)).status_code == 200

    async def audited(self) -> list[tuple[str, str]]:
        rows = await self.service.database.fetch(
            "select action, actor from audit_log where object = $1 order by seq", f"user:{self.id}"
        )
        return [tuple(row) for row in rows if row[0] not in {"user.create", "session.begin"}]


async def person(service: Service, role: str = "viewer") -> Person:
    admin, email = await service.as_role("admin"), f"{uuid4()}@tests.example"
    body = {"email": email, "password": OLD, "display_name": "Ada", "role": role}
    made = await service.client.post("/api/v1/users", json=body, headers=admin)
    assert made.status_code == 201, made.text
    return Person(service, made.json()["id"], email, admin)


async def test_a_changed_password_ends_all_other_sessions(service: Service) -> None:
    ada = await person(service)
    here, there = await ada.bearer(), await ada.bearer()
    body = {"current_password": OLD, "password": NEW}
    await ada.send("PUT", "/me/password", here, expect=204, json=body)
    assert await ada.is_in(here)
    assert not await ada.is_in(there)
    assert (await ada.login(OLD)).status_code == 401
    assert (await ada.login(NEW)).status_code == 200
    assert await ada.audited() == [("password.change", f"user:{ada.id}")]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"current_password": "wrong", "password": NEW}, "/current_password"),
        ({"current_password": OLD, "password": "short"}, "/password"),
        ({"current_password": OLD, "password": "{email}"}, "/password"),
    ],
    ids=str,
)
async def test_a_change_that_breaks_a_rule_changes_nothing(
    service: Service, body: dict[str, str], pointer: str
) -> None:
    ada = await person(service)
    here, there = await ada.bearer(), await ada.bearer()
    sent = {name: text.replace("{email}", ada.email.upper()) for name, text in body.items()}
    told = await ada.send("PUT", "/me/password", here, expect=422, json=sent)
    assert [it["pointer"] for it in told["errors"]] == [pointer]
    assert await ada.is_in(there)
    assert await ada.audited() == []


async def test_a_stolen_session_guesses_ten_times_a_minute(service: Service) -> None:
    ada = await person(service)
    here = await ada.bearer()
    for _ in range(10):
        body = {"current_password": "wrong", "password": NEW}
        await ada.send("PUT", "/me/password", here, expect=422, json=body)
    right = {"current_password": OLD, "password": NEW}
    await ada.send("PUT", "/me/password", here, expect=429, json=right)
    # It keeps nobody from signing in.
    assert (await ada.login()).status_code == 200


async def test_a_reset_answers_a_new_password_once_and_ends_all_sessions(service: Service) -> None:
    ada = await person(service)
    here = await ada.bearer()
    told = await ada.send("POST", "/users/{id}/password", ada.admin, expect=200)
    assert not await ada.is_in(here)
    assert (await ada.login(OLD)).status_code == 401
    assert (await ada.login(told["password"])).status_code == 200
    ((action, actor),) = await ada.audited()
    assert (action, actor.partition(":")[0]) == ("password.reset", "user")
    detail = "select count(*) from audit_log where detail::text like '%' || $1 || '%'"
    assert await service.database.fetchval(detail, told["password"]) == 0


async def test_sessions_are_listed_and_ended_one_by_one_or_all(service: Service) -> None:
    ada = await person(service)
    first, second, third = await ada.bearer(), await ada.bearer(), await ada.bearer()
    listed = (await ada.send("GET", "/me/sessions", second, expect=200))["items"]
    assert [it["is_this"] for it in listed] == [False, True, False]
    assert listed == [
        it | {"is_this": it["id"] == listed[1]["id"]}
        for it in (await ada.send("GET", "/users/{id}/sessions", ada.admin, expect=200))["items"]
    ]
    await ada.send("DELETE", f"/me/sessions/{listed[0]['id']}", second, expect=204)
    assert [await ada.is_in(it) for it in (first, second, third)] == [True, True, False]
    await ada.send("DELETE", f"/me/sessions/{listed[0]['id']}", second, expect=404)
    await ada.send("DELETE", f"/users/{{id}}/sessions/{listed[2]['id']}", ada.admin, expect=204)
    assert [await ada.is_in(it) for it in (first, second)] == [False, True]
    await ada.bearer()
    await ada.send("DELETE", "/users/{id}/sessions", ada.admin, expect=204)
    assert not await ada.is_in(second)
    assert (await ada.send("GET", "/users/{id}/sessions", ada.admin, expect=200))["items"] == []
    assert {action for action, _ in await ada.audited()} == {"session.revoke"}


async def test_sessions_of_other_people_are_out_of_reach(service: Service) -> None:
    ada, bob = await person(service), await person(service, "responder")
    here, there = await ada.bearer(), await bob.bearer()
    (session,) = (await ada.send("GET", "/me/sessions", here, expect=200))["items"]
    await bob.send("DELETE", f"/me/sessions/{session['id']}", there, expect=404)
    await bob.send("DELETE", "/me/sessions", there, expect=204)
    assert await ada.is_in(here)
    for method, path in (("GET", "sessions"), ("DELETE", "sessions"), ("POST", "password")):
        await ada.send(method, f"/users/{ada.id}/{path}", here, expect=403)
    machine = await service.machine("incidents:write")
    await ada.send("GET", "/me/sessions", machine, expect=403)
    for unknown in (str(uuid4()), "x"):
        await ada.send("GET", f"/users/{unknown}/sessions", ada.admin, expect=404)
        await ada.send("DELETE", f"/me/sessions/{unknown}", await ada.bearer(), expect=404)


async def test_an_account_whose_password_is_kept_elsewhere_has_sessions_alone(
    service: Service,
) -> None:
    screen = await Screen.of(service, "viewer")
    page = await screen.get("/account")
    assert "is managed by your sign-in provider" in page.text
    body = {"current_password": OLD, "password": NEW}
    headers = {**screen.headers, "Sec-Fetch-Site": "same-origin"}
    answer = await service.client.put("/api/v1/me/password", json=body, headers=headers)
    assert answer.status_code == 409


async def signed_in(ada: Person, password: str = OLD) -> Screen:
    body = {"email": ada.email, "password": password}
    answer = await ada.post("/signin", data=body, headers={"Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 303, answer.text
    session = answer.headers.get_list("set-cookie")[0].partition(";")[0]
    return Screen(ada.service, {"Cookie": session})


async def test_the_page_of_ones_own_account_changes_the_password(service: Service) -> None:
    ada = await person(service)
    screen, there = await signed_in(ada), await ada.bearer()
    page = await screen.get("/account")
    fields = {"current_password": OLD, "password": NEW, "password_again": NEW}
    for wrong, name in (
        ({"current_password": "wrong"}, "current_password"),
        ({"password_again": "another one"}, "password_again"),
        ({"password": "short", "password_again": "short"}, "password"),
    ):
        refused = await screen.send(page, "/account/password", fields | wrong, expect=422)
        assert f'href="#f-{name}"' in refused.text
        assert not any(text in refused.text for text in (OLD, NEW, "another one"))
    done = await screen.send(page, "/account/password", fields)
    assert (await screen.get(done.headers["location"])).text.count('role="status"') == 1
    assert not await ada.is_in(there)
    assert (await ada.login(NEW)).status_code == 200


async def test_the_page_of_ones_own_account_ends_sessions(service: Service) -> None:
    ada = await person(service)
    screen, other, third = await signed_in(ada), await signed_in(ada), await ada.bearer()
    page = await screen.get("/account")
    actions = re.findall(r'action="(/account/sessions/[^"]+)"', page.text)
    assert len(actions) == 3
    await screen.send(page, actions[0])
    assert not await ada.is_in(third)
    await screen.send(page, "/account/sessions")
    assert await ada.is_in(screen.headers)
    assert not await ada.is_in(other.headers)
    done = await screen.send(await screen.get("/account"), actions[2])
    assert done.headers["location"] == "/account?done=sessions"
    assert not await ada.is_in(screen.headers)


async def test_the_pages_of_people_reset_sign_out_and_revoke(service: Service) -> None:
    ada, screen = await person(service), await Screen.of(service, "admin")
    here = await ada.bearer()
    token = await service.client.post(
        "/api/v1/tokens",
        json={"name": "A dashboard", "scopes": ["incidents:read"]},
        headers=ada.admin,
    )
    people = await screen.get("/people")
    assert f"/people/{ada.id}" in people.text
    await screen.send(people, f"/people/tokens/{token.json()['id']}")
    assert not await ada.is_in({"Authorization": f"Bearer {token.json()['secret']}"})
    path = f"/people/{ada.id}"
    await screen.send(await screen.get(path), f"{path}/sessions")
    assert not await ada.is_in(here)
    shown = await screen.shown_once(await screen.send(await screen.get(path), f"{path}/password"))
    (password,) = re.findall(r"<code>([^<]+)</code>", shown.text)
    assert shown.headers["cache-control"] == "no-store"
    assert (await ada.login(password)).status_code == 200
    assert password not in (await screen.get(path)).text


async def test_the_page_of_people_creates_a_token_and_shows_its_secret_once(
    service: Service,
) -> None:
    screen, name = await Screen.of(service, "admin"), f"Dashboard {uuid4()}"
    people = await screen.get("/people")
    for wrong, told in (
        ({}, "f-scopes"),
        ({"scope-signals:write": "on"}, "a source is required with signals:write"),
        ({"scope-incidents:read": "on", "expires_at": "soon"}, "f-expires_at"),
        (
            {"scope-incidents:read": "on", "expires_at": "2020-01-01 00:00"},
            "within the next ten years",
        ),
    ):
        refused = await screen.send(people, "/people/tokens", {"name": name, **wrong}, expect=422)
        assert told in refused.text
        assert f'value="{name}"' in refused.text
        assert all(
            f'name="{box}" checked' in refused.text for box in wrong if box.startswith("scope-")
        )
    sent = {"name": name, "scope-incidents:read": "on", "scope-signals:write": "on", "source": "ci"}
    made = await screen.shown_once(await screen.send(people, "/people/tokens", sent))
    assert made.headers["cache-control"] == "no-store"
    (secret,) = re.findall(r"<code>(pf_[^<]{52})</code>", made.text)
    again = await screen.get("/people")
    assert name in again.text
    assert secret not in again.text
    me = await service.client.get("/api/v1/me", headers={"Authorization": f"Bearer {secret}"})
    assert (me.json()["scopes"], me.json()["source"]) == (["incidents:read", "signals:write"], "ci")
    audited = (
        "select detail->>'scopes' from audit_log where action = 'token.create' and object = $1"
    )
    assert (
        await service.database.fetchval(audited, me.json()["actor"])
        == '["incidents:read", "signals:write"]'
    )


async def test_the_pages_of_people_add_and_promote_and_disable(service: Service) -> None:
    screen, email = await Screen.of(service, "admin"), f"{uuid4()}@tests.example"
    wrong = await screen.send(await screen.get("/people"), "/people", email="nobody", expect=422)
    assert 'value="nobody"' in wrong.text
    sent = await screen.send(await screen.get("/people"), "/people", email=email, role="viewer")
    added = await screen.shown_once(sent)
    (password,) = re.findall(r"<code>([^<]{20})</code>", added.text)
    row = await service.database.fetchrow("select id, role from users where email = $1", email)
    assert row is not None
    assert row["role"] == "viewer"
    assert password not in (await screen.get("/people")).text
    ada = Person(service, str(row["id"]), email, {})
    here, path = await ada.bearer(password), f"/people/{row['id']}"
    first = await screen.get(path)
    await screen.send(first, path, having="role", role="responder")
    assert (await ada.send("GET", "/me", here, expect=200))["role"] == "responder"
    await screen.send(first, path, having="disabled")
    assert not await ada.is_in(here)
    await screen.send(await screen.get(path), path, having="disabled")
    assert (await ada.login(password)).status_code == 200
    assert [action for action, _ in await ada.audited()] == ["user.change"] * 3


@pytest.mark.parametrize(
    "action",
    ["/account/password", "/account/sessions", "/people/{id}/password", "/people/tokens"],
)
async def test_a_form_of_another_session_does_nothing(service: Service, action: str) -> None:
    ada, screen = await person(service), await Screen.of(service, "admin")
    path = action.replace("{id}", ada.id)
    for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "cross-site"}):
        body = {"csrf": "x", "current_password": OLD, "password": NEW, "password_again": NEW}
        answer = await service.client.post(path, data=body, headers=screen.headers | headers)
        assert answer.status_code == 403
        assert OLD not in answer.text
    assert await ada.audited() == []


async def test_a_sign_in_that_a_password_change_overtakes_begins_no_session(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await person(service)
    verify = Passwords.verify

    async def overtaken(self: Passwords, stored: str | None, password: str, **more: Any) -> bool:
        matches = await verify(self, stored, password, **more)
        await service.database.execute(
            "update users set password_hash = 'other' where email = $1", ada.email
        )
        return matches

    monkeypatch.setattr(Passwords, "verify", overtaken)
    assert (await ada.login()).status_code == 401
    left = "select count(*) from tokens where user_id = $1"
    assert await service.database.fetchval(left, ada.id) == 0


async def test_the_log_is_read_from_its_end(app_database: Database) -> None:
    async with app_database.transaction() as connection:
        unit = Unit(connection, NOBODY, None)
        for action, detail in (
            ("session.begin", None),
            ("session.end", None),
            ("incident.change", {"title": "x"}),
            ("incident.change", {"visibility": "private"}),
        ):
            await unit.audit(action, "it", detail=detail)
    reader = Reader(app_database, NOBODY)
    assert list((await losses(reader, 60.0)).values()) == [False, True]
    assert await losses(reader, -60.0) == {}
