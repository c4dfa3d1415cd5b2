"""Lists return exactly what matches, and paging loses nothing."""

from __future__ import annotations

import anyio
import httpx2
import pytest

from postfacta_app.principal import Principal
from postfacta_postgres import Database
from tests.app.incidents.asking import BASE, ClientFor
from tests.app.live import NEW, Body

# title, fields, moves
SAMPLES: list[tuple[str, Body, list[Body]]] = [
    (
        "one",
        {
            "severity": "LOW",
            "declared_at": "2026-01-01T00:00:00Z",
            "services": ["web"],
            "owner": "Ada",
        },
        [{"to": "RESOLVED", "occurred_at": "2026-01-03T00:00:00Z"}],
    ),
    (
        "two",
        {
            "severity": "MEDIUM",
            "declared_at": "2026-01-02T00:00:00Z",
            "services": ["api", "web"],
            "teams": ["pay"],
        },
        [{"to": "CLOSED", "outcome": "fixed", "occurred_at": "2026-01-02T06:00:00Z"}],
    ),
    (
        "three",
        {
            "severity": "HIGH",
            "declared_at": "2026-01-05T00:00:00Z",
            "kind": "near_miss",
            "teams": ["web"],
        },
        [{"to": "IN_PROGRESS"}],
    ),
    (
        "four",
        {
            "severity": "CRITICAL",
            "declared_at": "2026-01-09T00:00:00Z",
            "owner": "Bob",
            "description": "Disk of db-7 full",
        },
        [],
    ),
    ("drill", {"kind": "exercise", "declared_at": "2026-01-10T00:00:00Z"}, []),
]


async def fill(client: httpx2.AsyncClient) -> None:
    for title, fields, moves in SAMPLES:
        made = await client.post(BASE, json=NEW | {"title": title} | fields)
        assert made.status_code == 201, made.text
        for wish in moves:
            moved = await client.post(f"{BASE}/{made.json()['id']}/transitions", json=wish)
            assert moved.status_code == 201, moved.text


def names(answer: httpx2.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["title"] for item in answer.json()["items"]]


FILTERS = {
    "": "four three two one",
    "sort=declared_at": "one two three four",
    "sort=changed": "one two three four",
    "kind=exercise": "drill",
    "kind=exercise&kind=near_miss": "drill three",
    "severity=LOW&severity=HIGH": "three one",
    "severity_gte=HIGH": "four three",
    "severity_gte=HIGH&severity=CRITICAL": "four",
    "status=OPEN&status=CLOSED": "four two",
    "outcome=fixed": "two",
    "owner=Ada&owner=Bob": "four one",
    "service=web": "two one",
    "service=api&service=db": "two",
    "team=pay": "two",
    "team=web": "three",
    "service=web&team=pay": "two",
    "to=2026-01-02T00:00:00Z": "one",
    "to=2026-01-02T00:00:00.000001Z": "two one",
    "from=2026-01-02T06:00:00Z": "four three two one",
    "from=2026-01-02T06:00:00.000001Z": "four three one",
    "from=2026-01-03T00:00:00.000001Z": "four three",
    "from=2026-01-04T00:00:00Z&to=2026-01-06T00:00:00Z": "three",
    "q=disk": "four",
    "q=DISK+full": "four",
    "q=disk+noon": "",
    "q=disk&q=two": "four two",
    "q=db-7": "four",
    "q=%25": "",
    "has_postmortem=false": "four three two one",
    "has_postmortem=true": "",
    "updated_since=2020-01-01T00:00:00Z": "four three two one",
    "updated_since=2200-01-01T00:00:00Z": "",
}


async def test_each_filter_gives_what_it_names(
    client_for: ClientFor, responder: Principal, app_database: Database
) -> None:
    client = client_for(responder)
    await fill(client)
    for query, found in FILTERS.items():
        assert names(await client.get(f"{BASE}?{query}")) == found.split(), query
    await app_database.execute(
        """insert into postmortem_revisions (incident_id, rev, status, schema_version, content,
           timeline_digest, timeline_at, rules, author)
           select id, 1, 'draft', 1, '{}', '', now(), 1, 'user:1' from incidents where title = 'two'""",
        operation="test",
    )
    assert names(await client.get(f"{BASE}?has_postmortem=true")) == ["two"]
    assert names(await client.get(f"{BASE}?has_postmortem=false")) == ["four", "three", "one"]


async def test_a_cursor_fits_its_own_list_only(client_for: ClientFor, responder: Principal) -> None:
    client = client_for(responder)
    await fill(client)
    cursor = (await client.get(f"{BASE}?limit=1&severity_gte=LOW")).json()["next_cursor"]
    for query in (
        "",
        "sort=declared_at&severity_gte=LOW",
        "severity_gte=HIGH",
        "severity_gte=LOW&q=one",
    ):
        answer = await client.get(f"{BASE}?{query}&cursor={cursor}")
        assert (answer.status_code, answer.json()["slug"]) == (400, "invalid-cursor")
    assert names(await client.get(f"{BASE}?severity_gte=LOW&cursor={cursor}")) == [
        "three",
        "two",
        "one",
    ]


async def test_the_link_leads_through_the_whole_list(
    client_for: ClientFor, responder: Principal
) -> None:
    client = client_for(responder)
    await fill(client)
    found: list[str] = []
    path = f"{BASE}?limit=1&kind=incident&kind=near_miss"
    while path:
        answer = await client.get(path)
        found += names(answer)
        link = answer.headers.get("link", "")
        assert (link == "") == (answer.json()["next_cursor"] is None)
        assert link == "" or link.endswith('>; rel="next"')
        path = link.removeprefix("<").partition(">")[0]
    assert found == ["four", "three", "two", "one"]


@pytest.mark.parametrize("sort", ["-declared_at", "declared_at"])
async def test_paging_while_others_write_gives_each_incident_once(
    client_for: ClientFor, responder: Principal, sort: str
) -> None:
    client = client_for(responder)
    # Many share one instant: only the id tells them apart.
    when = [f"2026-01-0{day}T00:00:00Z" for day in (1, 1, 1, 1, 2, 2, 3)]
    start = {(await client.post(BASE, json=NEW | {"declared_at": at})).json()["id"] for at in when}
    seen: list[str] = []
    pages: list[Body] = [{"next_cursor": ""}]

    async def write() -> None:
        for day in range(1, 5):
            await client.post(BASE, json=NEW | {"declared_at": f"2026-01-0{day}T00:00:00Z"})

    async def read() -> None:
        cursor = pages[-1]["next_cursor"]
        path = f"{BASE}?limit=2&sort={sort}" + (f"&cursor={cursor}" if cursor else "")
        pages.append((await client.get(path)).json())
        seen.extend(item["id"] for item in pages[-1]["items"])

    # The oldest first has no end as long as others write.
    while pages[-1]["next_cursor"] is not None and len(seen) < 60:
        async with anyio.create_task_group() as group:
            group.start_soon(write)
            group.start_soon(read)
    assert len(seen) == len(set(seen))
    assert start <= set(seen)


async def test_an_incremental_pull_misses_no_change(
    client_for: ClientFor, responder: Principal, app_database: Database
) -> None:
    client = client_for(responder)
    await fill(client)
    # Older than the 15 seconds that are pulled again.
    await app_database.execute(
        "update incidents set updated_at = now() - interval '1 minute', timeline_at = now() - interval '1 minute'",
        operation="test",
    )
    first = (await client.get(f"{BASE}?sort=changed")).json()
    assert len(first["items"]) == 4
    pull = f"{BASE}?sort=changed&updated_since={first['as_of']}"
    assert names(await client.get(pull)) == []
    by_title = {item["title"]: item["id"] for item in first["items"]}
    await client.patch(
        f"{BASE}/{by_title['one']}", json={"owner": "Eve"}, headers={"If-Match": "*"}
    )
    await client.post(f"{BASE}/{by_title['four']}/transitions", json={"to": "RESOLVED"})
    assert names(await client.get(pull)) == ["one", "four"]
    # A fact of the timeline is a change too, although the incident's own version stays.
    await app_database.execute(
        "update incidents set timeline_at = clock_timestamp() where title = 'two'", operation="test"
    )
    assert names(await client.get(pull)) == ["one", "four", "two"]


async def test_the_empty_list_says_when_it_was_empty(
    client_for: ClientFor, responder: Principal
) -> None:
    answer = await client_for(responder).get(BASE)
    assert answer.json()["items"] == []
    assert answer.json()["as_of"].endswith("Z")
