"""Links are visible from both ends, and only to callers who may see both."""

from __future__ import annotations

import anyio
import httpx2
import pytest

from tests.app.desk import Desk, desk_of
from tests.app.live import Service


async def link(
    desk: Desk, to: str, of: str = "related", *, expect: int = 201, **fields: str
) -> httpx2.Response:
    return await desk.send("POST", "/links", expect=expect, json={"to": to, "type": of, **fields})


async def seen(desk: Desk) -> list[tuple[str, str, int]]:
    items = (await desk.get("/links"))["items"]
    return [(it["type"], it["direction"], it["incident"]["number"]) for it in items]


async def test_a_link_is_seen_from_both_ends(service: Service) -> None:
    one, two = await desk_of(service), await desk_of(service)
    number, other = one.incident["number"], two.incident["number"]
    await link(one, two.ref, note="The same disk")
    await link(one, two.incident["id"], "duplicate_of")
    await link(two, one.ref, "follows")
    assert await seen(one) == [
        ("related", "both", other),
        ("duplicate_of", "out", other),
        ("follows", "in", other),
    ]
    assert await seen(two) == [
        ("related", "both", number),
        ("duplicate_of", "in", number),
        ("follows", "out", number),
    ]
    assert (await two.get("/links"))["items"][0]["note"] == "The same disk"


async def test_the_same_link_again_writes_nothing_from_either_end(service: Service) -> None:
    one, two = await desk_of(service), await desk_of(service)
    first = (await link(one, two.ref, note="First")).json()
    before = await service.rows()
    assert (await link(one, two.ref, note="Second", expect=200)).json() == first
    assert (await link(two, one.ref, expect=200)).json()["note"] == "First"
    assert await service.rows() == before


async def test_a_link_is_taken_away_from_the_end_that_made_it(service: Service) -> None:
    one, two = await desk_of(service), await desk_of(service)
    await link(one, two.ref)
    await link(one, two.ref, "follows")
    await two.send("DELETE", f"/links/{one.ref}/follows", expect=404)
    await two.send("DELETE", f"/links/{one.incident['id']}/related", expect=204)
    await one.send("DELETE", f"/links/{two.ref}/follows", expect=204)
    await one.send("DELETE", f"/links/{two.ref}/follows", expect=404)
    await one.send("DELETE", f"/links/{two.ref}/friends", expect=404)
    assert await seen(one) == await seen(two) == []
    actions = await service.database.fetch(
        "select action from audit_log where object = $1 order by seq", two.ref
    )
    assert [row[0] for row in actions] == [
        "incident.create", "link.create", "link.create", "link.delete", "link.delete",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "to", ["INC-99999999", "00000000-0000-4000-8000-000000000000", "INC-0", "checkout"]
)
async def test_what_is_no_incident_cannot_be_linked(desk: Desk, to: str) -> None:
    answer = await link(desk, to, expect=422)
    assert [(it["pointer"], it["code"]) for it in answer.json()["errors"]] == [("/to", "unknown")]


async def test_no_incident_is_linked_to_itself(desk: Desk) -> None:
    for to in (desk.ref, desk.incident["id"]):
        assert (await link(desk, to, expect=422)).json()["errors"][0]["code"] == "same"


async def test_two_who_join_the_same_incidents_at_once_never_wait_in_a_circle(
    service: Service,
) -> None:
    one, two = await desk_of(service), await desk_of(service)
    statuses: list[int] = []

    async def join(desk: Desk, to: str, of: str) -> None:
        answer = await service.client.post(
            f"{desk.path}/links", json={"to": to, "type": of}, headers=desk.headers
        )
        statuses.append(answer.status_code)

    async with anyio.create_task_group() as group:
        for of in ("related", "follows", "duplicate_of"):
            group.start_soon(join, one, two.ref, of)
            group.start_soon(join, two, one.ref, of)
    assert sorted(statuses) == [200, 201, 201, 201, 201, 201]


async def test_the_most_links_are_two_hundred(service: Service) -> None:
    one, two = await desk_of(service), await desk_of(service)
    await service.database.execute(
        "with made as (insert into incidents (id, title, description, severity, reporter, declared_at, timeline_at,"
        " created_by) select gen_random_uuid(), 'Many', 'Many of them', 'LOW', 'test', now(), now(), 'test'"
        " from generate_series(1, 200) returning id)"
        " insert into incident_links (a, b, type, created_by) select $1, id, 'follows', 'test' from made",
        one.incident["id"],
    )
    await link(two, one.ref, expect=409)
    assert len(await seen(two)) == 0
