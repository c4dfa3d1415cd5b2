"""An export holds all that its asker may see, in the published shape, and the same state gives the same bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from postfacta_app import export
from postfacta_app.export import IncidentExport
from postfacta_app.timeline.kept import KeptTimelines
from tests.app.desk import FULL, Desk, desk_of
from tests.app.live import Body, Service
from tests.app.screen import Screen

SCHEMA = Path(__file__).parents[3] / "docs/reference/export.schema.json"


@pytest.fixture
async def full(service: Service) -> Desk:
    """Give an incident that has some of everything."""
    desk, other = await desk_of(service, title="Whole story", owner="Ada"), await desk_of(service)
    signal = {
        "kind": "change",
        "id": "d1",
        "title": "Deploy",
        "occurred_at": "2026-01-05T10:00:00Z",
    }
    await desk.send(
        "POST", "/api/v1/signals", expect=200, json={"incident": desk.ref, "items": [signal]}
    )
    entry = {"source": "manual", "id": "d1"}
    remarks: list[Body] = [
        {"kind": "note", "body": "Of its own time", "occurred_at": "2026-01-05T10:05:00Z"},
        {"kind": "question", "body": "Why then?", "entry": entry},
    ]
    for remark in remarks:
        await desk.send("POST", "/annotations", expect=201, json=remark)
    wrong = await desk.send(
        "POST", "/annotations", expect=201, json={"kind": "note", "body": "Taken back"}
    )
    path, headers = f"/api/v1/annotations/{wrong.json()['id']}", {"If-Match": wrong.headers["etag"]}
    await desk.send("DELETE", path, expect=204, headers=headers)
    turn = {
        "op": "milestone",
        "value": {"name": "detected", "at": "2026-01-05T10:06:00Z", "precision": "minute"},
    }
    await desk.send("POST", "/edits", expect=201, json=turn)
    await desk.add_action(owner="Ada", due_on="2026-03-01")
    await desk.send(
        "PUT", "/labels", expect=200, json={"labels": ["dns"]}, headers={"If-Match": "*"}
    )
    await desk.send("POST", "/links", expect=201, json={"to": other.ref, "type": "related"})
    await desk.publish(FULL)
    return desk


def test_the_published_schema_is_that_of_the_code() -> None:
    made = IncidentExport.model_json_schema(mode="serialization")
    assert json.loads(SCHEMA.read_text()) == made, "write it anew: see docs/reference/export.md"


async def test_an_export_fits_the_published_schema_and_has_some_of_everything(full: Desk) -> None:
    document = await full.get("/export")
    validator = jsonschema_rs.validator_for(json.loads(SCHEMA.read_text()))
    assert [error.message for error in validator.iter_errors(document)] == []
    assert not validator.is_valid({**document, "timeline": None})
    assert document["incident"] == await full.get()
    assert document["postmortem"] == await full.get("/postmortem")
    assert document["labels"] == ["dns"] == (await full.get("/labels"))["labels"]
    assert document["actions"] == (await full.get("/action-items"))["items"]
    assert document["links"] == (await full.get("/links"))["items"]
    timeline = await full.get("/timeline")
    assert document["timeline"]["digest"] == timeline["digest"]
    assert [it["id"] for it in document["timeline"]["entries"]] == [
        it["id"] for it in timeline["items"]
    ]
    assert document["timeline"]["milestones"] == timeline["milestones"]
    assert [it["body"] for it in document["annotations"]] == ["Of its own time", "Why then?"]


@pytest.mark.parametrize("form", ["json", "md"])
async def test_the_same_state_gives_the_same_bytes_and_another_gives_others(
    full: Desk, form: str
) -> None:
    first, again = [
        await full.send("GET", "/export", expect=200, params={"format": form}) for _ in range(2)
    ]
    assert again.content == first.content
    assert again.headers["etag"] == first.headers["etag"]
    kinds = {"json": "application/json", "md": "text/markdown; charset=utf-8"}
    assert first.headers["content-type"] == kinds[form]
    assert first.headers["content-disposition"] == f'attachment; filename="{full.ref}.{form}"'
    known = {"If-None-Match": first.headers["etag"]}
    await full.send("GET", "/export", expect=304, params={"format": form}, headers=known)
    await full.send("POST", "/annotations", expect=201, json={"kind": "note", "body": "One more"})
    later = await full.send("GET", "/export", expect=200, params={"format": form}, headers=known)
    assert "One more" in later.text


async def test_an_older_revision_can_be_taken_out(full: Desk) -> None:
    await full.write(3, FULL | {"summary": "Written anew"})
    assert (await full.get("/export"))["postmortem"]["content"]["summary"] == "Written anew"
    old = await full.get("/export", rev=3)
    assert (old["postmortem"]["rev"], old["postmortem"]["content"]["summary"]) == (
        3,
        FULL["summary"],
    )
    for query, status in (
        ({"rev": 9}, 404),
        ({"rev": 0}, 400),
        ({"format": "pdf"}, 400),
        ({"as_of": "x"}, 400),
    ):
        await full.send("GET", "/export", expect=status, params=query)
    viewer = full.seen_by(await full.service.as_role("viewer"))
    await viewer.send("GET", "/export", expect=404, params={"rev": 4})


async def test_nothing_that_people_type_is_live_in_markdown(service: Service) -> None:
    evil = "<script>alert(1)</script> [x](javascript:alert(1)) ![y](https://a/b.png)"
    desk = await desk_of(service, title=evil, description=evil)
    await desk.write(0, FULL | {"summary": evil, "surprises": [evil]}, expect=201)
    await desk.send("POST", "/annotations", expect=201, json={"kind": "note", "body": evil})
    text = (await desk.send("GET", "/export", expect=200, params={"format": "md"})).text
    for live in ("<script", "[x](javascript", "](javascript", " ![y]"):
        assert live not in text.replace("\\](", "").replace("\\!", ""), live


async def test_whatever_changes_of_an_incident_comes_with_the_next_pull(service: Service) -> None:
    one, two, three = [await desk_of(service, teams=["pulled"]) for _ in range(3)]

    async def pull(**query: Any) -> tuple[list[str], str]:
        params = {"sort": "changed", "team": "pulled", **query}
        found = (await one.send("GET", "/api/v1/incidents", expect=200, params=params)).json()
        return [f"INC-{it['number']}" for it in found["items"]], found["as_of"]

    everything, as_of = await pull()
    assert everything == [one.ref, two.ref, three.ref]
    # The window of fifteen seconds repeats what is young, so here time passes before each change.
    before = (
        "update incidents set updated_at = updated_at - interval '1 hour',"
        " timeline_at = timeline_at - interval '1 hour' where teams = '{pulled}'"
    )

    async def again() -> list[str]:
        return (await pull(updated_since=as_of))[0]

    async def close() -> None:
        action = (await one.get("/action-items"))["items"][0]
        path, headers = f"/api/v1/action-items/{action['id']}", {"If-Match": '"act-1"'}
        await one.send("PATCH", path, expect=200, json={"status": "done"}, headers=headers)

    changes: dict[str, Callable[[], Awaitable[object]]] = {
        "post-mortem": lambda: one.write(0, FULL, expect=201),
        "state": lambda: one.move(1, "in_review"),
        "action": one.add_action,
        "action's end": close,
        "label": lambda: one.send(
            "PUT", "/labels", expect=200, json={"labels": ["dns"]}, headers={"If-Match": "*"}
        ),
        "remark": lambda: one.send(
            "POST", "/annotations", expect=201, json={"kind": "note", "body": "x"}
        ),
        "move": lambda: one.send("POST", "/transitions", expect=201, json={"to": "RESOLVED"}),
        "field": lambda: one.send(
            "PATCH", expect=200, json={"owner": "Ada"}, headers={"If-Match": "*"}
        ),
    }
    for name, change in changes.items():
        await service.database.execute(before)
        assert await again() == [], name
        await change()
        assert await again() == [one.ref], name
    await service.database.execute(before)
    await one.send("POST", "/links", expect=201, json={"to": two.ref, "type": "follows"})
    assert set(await again()) == {one.ref, two.ref}


async def test_a_quantity_that_is_whole_has_no_fraction_in_markdown(service: Service) -> None:
    desk = await desk_of(service)
    quantities = [{"name": "failed", "value": value, "unit": "requests"} for value in (4096, 0.5)]
    await desk.write(
        0, {**FULL, "impact": {"description": "Many.", "quantities": quantities}}, expect=201
    )
    text = (await desk.send("GET", "/export", expect=200, params={"format": "md"})).text
    assert "failed: 4096 requests" in text
    assert "failed: 0.5 requests" in text


@pytest.mark.parametrize("form", ["json", "md"])
async def test_a_long_export_is_streamed_with_the_bytes_of_one_piece(
    full: Desk, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [
        {
            "kind": "log",
            "id": f"log {n}",
            "title": f"*Line* {n}",
            "occurred_at": f"2026-01-05T10:{n:02}:00Z",
        }
        for n in range(9)
    ]
    await full.send(
        "POST", "/api/v1/signals", expect=200, json={"incident": full.ref, "items": items}
    )
    whole = await full.send("GET", "/export", expect=200, params={"format": form})
    monkeypatch.setattr(export, "_STEP", 2)
    streamed = await full.send("GET", "/export", expect=200, params={"format": form})
    assert "content-length" in whole.headers
    assert "content-length" not in streamed.headers
    assert streamed.content == whole.content
    assert streamed.headers["etag"] == whole.headers["etag"]


async def test_no_piece_of_a_stream_has_more_entries_than_a_step(
    full: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, lengths = KeptTimelines.slice, list[int]()

    async def counted(self: Any, q: Any, ref: Any, query: Any) -> Any:
        found = await read(self, q, ref, query)
        assert found is not None
        lengths.append(len(found.page.items))
        return found

    monkeypatch.setattr(KeptTimelines, "slice", counted)
    monkeypatch.setattr(export, "_STEP", 2)
    await full.send("GET", "/export", expect=200)
    assert len(lengths) > 1
    assert max(lengths) == 2


async def test_a_stream_shows_the_moment_at_which_it_began(
    full: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_STEP", 2)
    read, seen = KeptTimelines.slice, list[object]()

    async def slice_after_a_write(self: Any, q: Any, ref: Any, query: Any) -> Any:
        if query.as_of is not None:
            note = {
                "kind": "note",
                "body": "Meanwhile",
                "occurred_at": f"2026-01-05T10:30:0{len(seen)}Z",
            }
            await full.send("POST", "/annotations", expect=201, json=note)
            seen.append(query)
        return await read(self, q, ref, query)

    before = (await full.send("GET", "/export", expect=200)).content
    monkeypatch.setattr(KeptTimelines, "slice", slice_after_a_write)
    assert (await full.send("GET", "/export", expect=200)).content == before
    assert seen


async def test_the_page_of_an_incident_leads_to_its_exports(full: Desk) -> None:
    screen = await Screen.of(full.service, "viewer")
    page = await screen.get(f"/incidents/{full.ref}")
    for words, kind in (("Markdown", "text/markdown"), ("JSON", "application/json")):
        found = re.search(
            f'<a class="button quiet" href="([^"]+)">Export as {words}</a>', page.text
        )
        assert found is not None
        answer = await full.service.client.get(found[1], headers=screen.headers)
        assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, kind)
        assert "Whole story" in answer.text
