"""Published post-mortems are complete, viewers read no drafts, and later timeline changes are reported."""

from __future__ import annotations

from typing import Any

import pytest

from tests.app.desk import FULL, Desk, desk_of
from tests.app.live import Body, Service


@pytest.mark.parametrize("lacking", [(), *[(name,) for name in FULL], tuple(FULL)], ids=" ".join)
async def test_what_is_missing_is_listed_and_nothing_is_written(
    desk: Desk, lacking: tuple[str, ...]
) -> None:
    await desk.write(0, {name: of for name, of in FULL.items() if name not in lacking}, expect=201)
    unowned = await desk.add_action()
    await desk.add_action(owner="Ada")
    await desk.move(1, "in_review")
    refused = (await desk.move(2, "published", expect=409)).json()
    assert refused["type"] == "/problems/not-publishable"
    assert refused["missing"] == [*lacking, "owners"]
    assert refused["actions_without_owner"] == [unowned["id"]]
    assert (await desk.get("/postmortem"))["status"] == "in_review"


async def test_evidence_that_is_not_on_the_timeline_is_not_published(desk: Desk) -> None:
    evidence = [{"source": "ci", "id": "nothing"}]
    content = FULL | {"factors": [FULL["factors"][0] | {"evidence": evidence}]}
    await desk.write(0, content, expect=201)
    await desk.move(1, "in_review")
    assert (await desk.move(2, "published", expect=409)).json()["missing"] == ["evidence"]


async def test_a_closed_action_needs_no_owner_and_no_factor_is_an_answer(desk: Desk) -> None:
    content = {name: of for name, of in FULL.items() if name != "factors"} | {
        "factors_none_found": True
    }
    action = await desk.add_action()
    await desk.send(
        "PATCH",
        f"/api/v1/action-items/{action['id']}",
        expect=200,
        json={"status": "done"},
        headers={"If-Match": '"act-1"'},
    )
    assert await desk.publish(content) == 3


async def test_a_post_mortem_is_waived_only_with_a_word_even_before_the_first(desk: Desk) -> None:
    refused = await desk.move(0, "waived", expect=422)
    assert refused.json()["errors"][0]["pointer"] == "/message"
    waived = (await desk.move(0, "waived", message="A drill")).json()
    assert (waived["rev"], waived["status"], waived["message"]) == (1, "waived", "A drill")
    assert (await desk.move(1, "in_review", expect=409)).json()["allowed"] == ["draft"]
    await desk.move(1, "draft")


async def test_viewers_read_what_is_in_review_or_published_and_never_a_draft(desk: Desk) -> None:
    service = desk.service
    viewers = [
        desk.seen_by(headers)
        for headers in (await service.as_role("viewer"), await service.machine("incidents:read"))
    ]
    writers = [
        desk.seen_by(headers)
        for headers in (await service.as_role("admin"), await service.machine("incidents:write"))
    ]

    async def check(seen: int | None, there: list[int], last: int) -> None:
        for viewer in viewers:
            if seen is None:
                await viewer.send("GET", "/postmortem", expect=404)
            else:
                shown = await viewer.send("GET", "/postmortem", expect=200)
                assert (shown.json()["rev"], shown.headers["etag"]) == (seen, f'"pm-{seen}"')
            listed = (await viewer.get("/postmortem/revisions"))["items"]
            assert [it["rev"] for it in listed] == there
            for rev in range(1, last + 1):
                expect = 200 if rev in there else 404
                await viewer.send("GET", f"/postmortem/revisions/{rev}", expect=expect)
            exported = await viewer.get("/export")
            assert (exported["postmortem"] or {"rev": None})["rev"] == seen
        for writer in writers:
            assert (await writer.get("/postmortem"))["rev"] == last
            assert len((await writer.get("/postmortem/revisions"))["items"]) == last

    await desk.write(0, FULL, expect=201)
    await check(None, [], 1)
    await desk.move(1, "in_review")
    await check(2, [2], 2)
    await desk.move(2, "published")
    await check(3, [3, 2], 3)
    await desk.write(3, FULL | {"summary": "Revised"})
    assert (await desk.get("/postmortem"))["status"] == "draft"
    await check(3, [3, 2], 4)
    await desk.move(4, "waived", message="Never mind")
    await check(3, [3, 2], 5)


def entries(changes: Body) -> dict[str, list[str]]:
    return {how: [it["id"] for it in its] for how, its in changes.items() if its}


async def test_timeline_changes_after_publication_are_listed_by_entry(desk: Desk) -> None:
    async def attach(*ids: str) -> None:
        items: list[Body] = [
            {
                "kind": "metric",
                "source": source,
                "id": name,
                "title": f"Signal {name}",
                "occurred_at": f"2026-01-05T10:0{at}:00Z",
            }
            for at, (source, name) in enumerate(it.split() for it in ids)
        ]
        body = {"incident": desk.ref, "items": items}
        assert (await desk.send("POST", "/api/v1/signals", expect=200, json=body)).json()["counts"][
            "created"
        ]

    async def edit(
        op: str, name: str | None = None, source: str = "manual/web", **fields: Any
    ) -> None:
        target = {"entry": {"source": source, "id": name}} if name else {}
        await desk.send("POST", "/edits", expect=201, json={"op": op, **target, **fields})

    await attach("web a", "web b", "web c", "db d", "db e")
    await desk.publish(FULL)
    quiet = await desk.send("GET", "/postmortem", expect=200)
    assert (quiet.json()["timeline_changed"], quiet.json()["timeline_changes"]) == (False, None)
    same = {"If-None-Match": quiet.headers["etag"]}
    await desk.send("GET", "/postmortem", expect=304, headers=same)

    await attach("web late")
    at = {"at": "2026-01-05T11:00:00Z", "precision": "minute"}
    await edit("set_time", "a", value=at, reason="The log is right")
    await edit("set_title", "b", value={"title": "Really this"})
    await edit("hide", "c", reason="Noise")
    await desk.send(
        "POST",
        "/edits",
        expect=201,
        json={
            "op": "clock_offset",
            "source": "manual/db",
            "value": {"ms": 2000},
            "reason": "Ahead",
        },
    )
    shown = (await desk.send("GET", "/postmortem", expect=200, headers=same)).json()
    assert shown["timeline_changed"] is True
    assert entries(shown["timeline_changes"]) == {
        "added": ["late"],
        "removed": ["c"],
        "moved": ["d", "e", "a"],
        "retitled": ["b"],
    }
    moved = shown["timeline_changes"]["moved"][-1]
    assert (moved["t"], moved["p"]) == ("2026-01-05T11:00:00.000000Z", "minute")

    await desk.write(3, FULL | {"summary": "With all that"})
    assert (await desk.get("/postmortem"))["timeline_changed"] is False
    viewer = desk.seen_by(await desk.service.as_role("viewer"))
    assert entries((await viewer.get("/postmortem"))["timeline_changes"]) == entries(
        shown["timeline_changes"]
    )


async def test_a_comment_on_an_entry_does_not_make_a_post_mortem_look_old(desk: Desk) -> None:
    await desk.publish(FULL)
    await desk.send("POST", "/annotations", expect=201, json={"kind": "note", "body": "I wonder"})
    assert (await desk.get("/postmortem"))["timeline_changed"] is False


async def test_the_digest_of_a_revision_is_that_of_the_timeline_as_of_then(desk: Desk) -> None:
    await desk.publish(FULL)
    await desk.send("POST", "/transitions", expect=201, json={"to": "RESOLVED"})
    for rev in (1, 2, 3):
        revision = await desk.get(f"/postmortem/revisions/{rev}")
        then = await desk.get("/timeline", as_of=revision["timeline_at"])
        assert (revision["timeline_digest"], revision["rules"]) == (then["digest"], then["rules"])
        assert revision["timeline_digest"] != (await desk.get("/timeline"))["digest"]


async def counted(desk: Desk, **query: str) -> dict[str, list[str]]:
    items = (await desk.get("/api/v1/factors", **query))["items"]
    assert all(it["count"] == len(it["incidents"]) for it in items)
    return {f"{it['category']} {it['slug']}": it["incidents"] for it in items}


def with_factors(*slugs: str) -> Body:
    return FULL | {"factors": [FULL["factors"][0] | {"slug": slug} for slug in slugs]}


async def test_factors_are_counted_over_what_is_published_and_may_be_seen(service: Service) -> None:
    team: Body = {"teams": ["counted"]}
    one, two, draft = [await desk_of(service, **team) for _ in range(3)]
    hidden = await desk_of(service, visibility="private", **team)
    drill = await desk_of(service, kind="exercise", **team)
    await one.publish(with_factors("no-canary", "no-alert"))
    await two.publish(with_factors("no-canary"))
    for other in (hidden, drill):
        await other.publish(with_factors("no-canary", "hush"))
    await draft.write(0, with_factors("half-thought"), expect=201)
    seen = {"change no-canary": [one.ref, two.ref], "change no-alert": [one.ref]}
    assert await counted(draft, team="counted") == seen
    assert list(seen) == list(await counted(draft, team="counted"))
    mine = await counted(hidden, team="counted")
    assert mine["change no-canary"] == [one.ref, two.ref, hidden.ref]
    assert mine["change hush"] == [hidden.ref]
    drills = await counted(draft, team="counted", kind="exercise")
    assert drills == {"change hush": [drill.ref], "change no-canary": [drill.ref]}

    # A revision under way does not take away what is published; the next one that is published
    # does.
    await two.write(3, with_factors("other"))
    assert await counted(draft, team="counted") == seen
    await two.move(4, "in_review")
    await two.move(5, "published")
    assert (await counted(draft, team="counted"))["change other"] == [two.ref]
    await draft.send("GET", "/api/v1/factors?sort=changed", expect=400)
