"""Who may not see a private incident meets it nowhere."""

from __future__ import annotations

import httpx2
import pytest

from postfacta_app.principal import ANONYMOUS, Principal
from postfacta_postgres import Database
from tests.app.incidents.asking import BASE, ClientFor
from tests.app.live import NEW, Body

PRIVATE = NEW | {"title": "Hush", "visibility": "private"}
ANY = {"If-Match": "*"}


async def sign_up(database: Database, principal: Principal) -> str:
    await database.execute(
        "insert into users (id, email, display_name, role) values ($1, $2, 'A', 'viewer')",
        principal.user_id,
        f"{principal.user_id}@example.org",
        operation="test",
    )
    return str(principal.user_id)


async def titles(client: httpx2.AsyncClient, **query: str) -> list[str]:
    answer = await client.get(BASE, params=query)
    assert answer.status_code == 200
    return [item["title"] for item in answer.json()["items"]]


async def test_members_and_administrators_see_it(
    client_for: ClientFor,
    responder: Principal,
    viewer: Principal,
    *,
    admin: Principal,
    app_database: Database,
) -> None:
    member = await sign_up(app_database, viewer)
    made = (
        await client_for(responder).post(BASE, json=PRIVATE | {"members": [member, member]})
    ).json()
    assert made["members"] == [member, str(responder.user_id)]
    for who in (responder, viewer, admin):
        assert (await client_for(who).get(f"{BASE}/{made['id']}")).status_code == 200
        assert await titles(client_for(who)) == ["Hush"]


async def test_a_member_who_is_taken_out_sees_it_no_more(
    client_for: ClientFor, responder: Principal, viewer: Principal, *, app_database: Database
) -> None:
    member = await sign_up(app_database, viewer)
    path = f"{BASE}/{(await client_for(responder).post(BASE, json=PRIVATE | {'members': [member]})).json()['id']}"
    own = await sign_up(app_database, responder)
    changed = await client_for(responder).patch(path, json={"members": [own]}, headers=ANY)
    assert changed.json()["members"] == [own]
    assert (await client_for(viewer).get(path)).status_code == 404


async def test_the_last_member_stays(client_for: ClientFor, responder: Principal) -> None:
    client = client_for(responder)
    made = (await client.post(BASE, json=PRIVATE)).json()
    refused = await client.patch(f"{BASE}/{made['id']}", json={"members": []}, headers=ANY)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/members"
    assert (await client.get(f"{BASE}/{made['id']}")).json() == made


async def test_the_user_who_makes_it_private_stays_a_member(
    client_for: ClientFor, responder: Principal, other: Principal
) -> None:
    path = f"{BASE}/{(await client_for(responder).post(BASE, json=NEW)).json()['id']}"
    body: Body = {"visibility": "private", "members": []}
    changed = await client_for(other).patch(path, json=body, headers=ANY)
    assert changed.json()["members"] == [str(other.user_id)]
    assert (await client_for(responder).get(path)).status_code == 404


@pytest.mark.parametrize("who", ["machine", "anonymous"])
async def test_an_invisible_incident_cannot_be_made_private(
    client_for: ClientFor, machine: Principal, app_database: Database, *, who: str
) -> None:
    client = client_for(ANONYMOUS if who == "anonymous" else machine)
    refused = await client.post(BASE, json=PRIVATE)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/visibility"
    path = f"{BASE}/{(await client.post(BASE, json=NEW)).json()['id']}"
    assert (
        await client.patch(path, json={"visibility": "private"}, headers=ANY)
    ).status_code == 422
    assert (await client.get(path)).json()["visibility"] == "internal"
