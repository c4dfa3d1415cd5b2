"""Annotations are added by all roles, changed by their authors, kept forever, and shown in v0."""

from __future__ import annotations

from tests.app.live import PATCH_JSON, Service
from tests.app.timeline.conftest import Body, Case, a_case
from tests.kit.every import every

NOTE: Body = {"kind": "note", "body": "Nobody could pay"}


async def bodies(case: Case) -> list[str]:
    return [it["body"] for it in (await case.get("annotations"))["items"]]


async def v0_notes(case: Case) -> list[str]:
    incident: Body = (await case.send("GET", f"/api/v0/incidents/{case.id}")).json()
    notes: list[Body] = incident["additional_notes"] or []
    return [it["message"] for it in notes]


async def test_a_remark_is_answered_as_it_is_listed(service: Service) -> None:
    case = await a_case(service)
    entry = {"source": "a", "id": "not there yet"}
    made = await case.send(
        "POST", "annotations", {"kind": "hypothesis", "body": "It is DNS", "entry": entry}
    )
    assert (made.status_code, made.headers["etag"]) == (201, '"ann-1"')
    told = made.json()
    assert (told["state"], told["entry"], told["occurred_at"], told["version"]) == (
        "open",
        entry,
        None,
        1,
    )
    assert (await case.get("annotations"))["items"] == [told]
    assert (await case.get("timeline"))["items"][-1][
        "title"
    ] == "Declared"  # It has no time of its own.


BAD: list[tuple[Body, str]] = [
    ({}, "/kind"),
    ({"kind": "joke"}, "/kind"),
    ({"kind": "note", "body": ""}, "/body"),
    ({"kind": "note", "body": "x" * 10_001}, "/body"),
    ({"state": "open"}, "/state"),
    ({"kind": "question", "state": "refuted"}, "/state"),
    ({"kind": "hypothesis", "state": "answered"}, "/state"),
    ({"occurred_at": "2100-01-01T00:00:00Z"}, "/occurred_at"),
    ({"occurred_at": "2026-01-01T00:00:00Z", "entry": {"source": "a", "id": "b"}}, "/occurred_at"),
    ({"precision": "minute"}, "/precision"),
    ({"occurred_at": "2026-01-01T00:00:00Z", "precision": "about"}, "/precision"),
    ({"entry": {"source": "a"}}, "/entry/id"),
    ({"author": "me"}, "/author"),
]


async def test_a_bad_remark_is_refused_and_its_field_named(service: Service) -> None:
    incident = await a_case(service)
    with every() as case:
        for fields, pointer in BAD:
            with case(pointer, fields):
                answer = await incident.send(
                    "POST", "annotations", (NOTE | fields) if fields else {"body": "x"}
                )
                assert answer.status_code == 422, answer.text
                assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
                assert await bodies(incident) == []


async def test_a_change_supersedes_and_a_retraction_stays_on_record(service: Service) -> None:
    case = await a_case(service)
    made = await case.post("annotations", {"kind": "question", "body": "Who was paged?"})
    path = f"/api/v1/annotations/{made['id']}"
    changed = await case.send("PUT", path, {"state": "answered"}, headers={"If-Match": '"ann-1"'})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"ann-2"')
    told = changed.json()
    assert (told["id"], told["body"], told["state"]) == (made["id"], "Who was paged?", "answered")
    assert (told["at"], told["author"]) == (made["at"], made["author"])
    assert told["changed_at"] > made["at"]
    same = await case.send("PUT", path, {"state": "answered"}, headers={"If-Match": '"ann-2"'})
    assert same.json() == told
    refused = await case.send("PUT", path, {"state": "refuted"}, headers={"If-Match": '"ann-2"'})
    assert [it["pointer"] for it in refused.json()["errors"]] == ["/state"]
    assert (await case.send("DELETE", path, headers={"If-Match": '"ann-2"'})).status_code == 204
    assert await bodies(case) == []
    for method in ("PUT", "DELETE"):
        gone = await case.send(method, path, {"body": "x"}, headers={"If-Match": "*"})
        assert gone.status_code == 404
    rows = await service.database.fetch(
        "select retracted from annotations where root = $1 order by at", made["id"]
    )
    assert [row[0] for row in rows] == [False, False, True]
    audit = "select action from audit_log where incident_id = $1 and action like 'annotation%' order by seq"
    actions = [row[0] for row in await service.database.fetch(audit, case.id)]
    assert actions == ["annotation.add", "annotation.change", "annotation.retract"]


async def test_a_change_names_the_version_it_starts_from(service: Service) -> None:
    case = await a_case(service)
    path = f"/api/v1/annotations/{(await case.post('annotations', NOTE))['id']}"
    for method in ("PUT", "DELETE"):
        assert (await case.send(method, path, {"body": "New"})).status_code == 428
        stale = await case.send(method, path, {"body": "New"}, headers={"If-Match": '"ann-7"'})
        assert (stale.status_code, stale.headers["etag"]) == (412, '"ann-1"')
    assert await bodies(case) == [NOTE["body"]]


async def test_only_the_author_or_an_administrator_changes_it(service: Service) -> None:
    case = await a_case(service)
    viewer, other = await service.as_role("viewer"), await service.as_role("responder")
    made = (await case.send("POST", "annotations", NOTE, headers=viewer)).json()
    path, any_version = f"/api/v1/annotations/{made['id']}", {"If-Match": "*"}
    assert (
        await case.send("PUT", path, {"body": "Mine"}, headers=other | any_version)
    ).status_code == 403
    assert (await case.send("DELETE", path, headers=other | any_version)).status_code == 403
    assert (
        await case.send("PUT", path, {"body": "Yes"}, headers=viewer | any_version)
    ).status_code == 200
    admin = await service.as_role("admin")
    changed = (await case.send("PUT", path, {"body": "No"}, headers=admin | any_version)).json()
    assert (changed["body"], changed["author"]) == ("No", made["author"])


async def test_viewers_add_all_but_decisions_and_a_reading_token_adds_nothing(
    service: Service,
) -> None:
    case = await a_case(service)
    viewer, token = await service.as_role("viewer"), await service.machine("incidents:read")
    for kind in ("note", "hypothesis", "question"):
        assert (
            await case.send("POST", "annotations", NOTE | {"kind": kind}, headers=viewer)
        ).status_code == 201
    decision = NOTE | {"kind": "decision"}
    assert (await case.send("POST", "annotations", decision, headers=viewer)).status_code == 403
    assert (await case.send("POST", "annotations", NOTE, headers=token)).status_code == 403
    assert (await case.send("POST", "annotations", decision)).status_code == 201


async def test_v0_shows_notes_that_v1_added_at_their_first_place_until_they_are_retracted(
    service: Service,
) -> None:
    case = await a_case(service)
    first = await case.post("annotations", NOTE)
    timed = NOTE | {"body": "Later", "occurred_at": "2026-02-07T10:00:00.5Z"}
    await case.post("annotations", timed)
    await case.post("annotations", NOTE | {"body": "Beneath", "entry": {"source": "a", "id": "b"}})
    await case.post("annotations", {"kind": "decision", "body": "Roll back"})
    assert await v0_notes(case) == [NOTE["body"], "Later"]
    path = f"/api/v1/annotations/{first['id']}"
    await case.send("PUT", path, {"body": "Corrected"}, headers={"If-Match": '"ann-1"'})
    assert await v0_notes(case) == ["Corrected", "Later"]
    shown = (await case.send("GET", f"/api/v0/incidents/{case.id}")).json()
    assert shown["additional_notes"][1]["timestamp"] == "2026-02-07T10:00:00.5Z"
    await case.send("DELETE", path, headers={"If-Match": '"ann-2"'})
    assert await v0_notes(case) == ["Later"]


async def test_v0_notes_are_remarks_and_a_real_time_puts_them_into_the_timeline(
    service: Service,
) -> None:
    headers = await service.as_role("responder")
    start: Body = {
        "title": "DB outage", "description": "Primary is away", "reporter": "sre", "severity": "HIGH",
        "notes": [{"timestamp": "2026-02-07T10:00:00Z", "message": "Paged"}, {"message": "No time"}],
    }  # fmt: skip
    made = (
        await service.client.post("/api/v0/incidents/start", json=start, headers=headers)
    ).json()
    number = await service.database.fetchval(
        "select number from incidents where id = $1", made["id"]
    )
    case = Case(service, headers, made["id"], number)
    assert sorted(await bodies(case)) == ["No time", "Paged"]
    assert await case.titles() == ["Paged", "Declared"]
    await case.edit(
        "set_title",
        ("human", f"annotation:{(await case.get('annotations'))['items'][0]['id']}"),
        value={"title": "?"},
    )
    initial = (await case.send("GET", f"/api/v0/incidents/{case.id}")).json()["initial_notes"]
    assert [it["message"] for it in initial] == ["Paged", "No time"]


async def test_the_precision_of_a_note_is_stored_and_decides_its_place(service: Service) -> None:
    case = await a_case(service)
    told = await case.post(
        "annotations", NOTE | {"occurred_at": "2026-02-07T10:04:40Z", "precision": "minute"}
    )
    assert (told["occurred_at"], told["precision"]) == ("2026-02-07T10:04:40.000000Z", "minute")
    exact = await case.post(
        "annotations", NOTE | {"body": "Exactly", "occurred_at": "2026-02-07T10:04:00Z"}
    )
    assert exact["precision"] == "exact"
    assert (await case.post("annotations", NOTE | {"body": "Whole"}))["precision"] is None
    first, second, _ = (await case.get("timeline"))["items"]
    assert (first["title"], first["t"], first["p"]) == (
        NOTE["body"],
        "2026-02-07T10:04:00.000000Z",
        "minute",
    )
    assert (first["occurred_at"], first["received_at"]) == (told["occurred_at"], told["at"])
    assert (second["title"], second["p"]) == ("Exactly", "exact")
    await case.edit(
        "set_time",
        ("human", first["id"]),
        value={"at": "2026-02-07T10:30:00Z", "precision": "hour"},
        reason="?",
    )
    moved = (await case.get("timeline"))["items"][0]
    assert (moved["p"], moved["original_precision"]) == ("hour", "minute")


async def test_a_version_that_the_program_before_writes_keeps_the_precision(
    service: Service,
) -> None:
    case = await a_case(service)
    told = await case.post(
        "annotations", NOTE | {"occurred_at": "2026-02-07T10:04:40Z", "precision": "minute"}
    )
    at = await service.database.fetchval(
        "update incidents set timeline_at = clock_timestamp() where id = $1::text::uuid returning timeline_at",
        case.id,
    )
    await service.database.execute(
        "insert into annotations (id, root, supersedes, incident_id, kind, body, occurred_at, author, at)"
        " select gen_random_uuid(), id, id, incident_id, kind, 'Reworded', occurred_at, author, $2"
        " from annotations where id = $1::text::uuid",
        *(told["id"], at),
    )
    assert (await case.get("annotations"))["items"][0]["precision"] == "minute"
    entry = (await case.get("timeline"))["items"][0]
    assert (entry["title"], entry["p"], entry["received_at"]) == ("Reworded", "minute", told["at"])


async def test_a_change_of_severity_or_owner_is_an_entry_of_the_timeline(service: Service) -> None:
    case = await a_case(service)
    incident = (await case.send("GET", case.path)).json()
    headers = {"If-Match": f'"inc-{incident["version"]}"', "Content-Type": PATCH_JSON}
    changed = {"severity": "CRITICAL", "owner": "Ada", "title": "Renamed outage"}
    answer = await case.send("PATCH", case.path, changed, headers=headers)
    assert answer.status_code == 200, answer.text
    entry = (await case.get("timeline"))["items"][-1]
    assert (entry["source"], entry["title"]) == (
        "human",
        "Severity: High to Critical; owner: none to Ada",
    )
    assert entry["t"] == entry["received_at"]
    (note,) = (await case.get("annotations"))["items"]
    assert note["author"] == answer.json()["created_by"]
    headers["If-Match"] = answer.headers["etag"]
    answer = await case.send(
        "PATCH", case.path, {"severity": "CRITICAL", "title": "Again"}, headers=headers
    )
    assert answer.status_code == 200
    assert len((await case.get("timeline"))["items"]) == 2  # With the declaration.


async def test_remarks_come_in_pages(service: Service) -> None:
    case = await a_case(service)
    made = [await case.post("annotations", NOTE | {"body": str(n)}) for n in range(5)]
    first = await case.get("annotations?limit=3")
    rest = await case.get(f"annotations?limit=3&cursor={first['next_cursor']}")
    assert first["items"] + rest["items"] == made
