"""Post-mortems are revisions without gaps, and of two writers one knows of the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx2
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.app.desk import FIRST, FULL, Desk, after, desk_of
from tests.app.live import Body, Service


async def test_each_content_is_a_revision_with_the_next_number(desk: Desk) -> None:
    await desk.send("GET", "/postmortem", expect=404)
    first = await desk.write(0, {"summary": "One"}, expect=201, message="At last")
    assert (first.headers["etag"], first.json()["rev"], first.json()["status"]) == (
        '"pm-1"',
        1,
        "draft",
    )
    second = await desk.write(1, {"summary": "Two"})
    assert second.headers["etag"] == '"pm-2"'
    shown = await desk.send("GET", "/postmortem", expect=200)
    assert shown.headers["etag"] == '"pm-2"'
    assert shown.json()["content"]["summary"] == "Two"
    listed = (await desk.get("/postmortem/revisions"))["items"]
    assert [(it["rev"], it["message"]) for it in listed] == [(2, None), (1, "At last")]
    assert "content" not in listed[0]


async def test_equal_content_makes_no_revision(desk: Desk) -> None:
    content = {
        **FULL,
        "impact": {"description": "x", "quantities": [{"name": "q", "value": 1e300}]},
    }
    first = await desk.write(0, content, expect=201)
    again = await desk.write(1, content)
    assert (again.headers["etag"], again.json()) == ('"pm-1"', first.json())
    assert len((await desk.get("/postmortem/revisions"))["items"]) == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 428),
        ({"If-Match": "*"}, 428),
        ({"If-None-Match": '"pm-1"'}, 428),
        ({"If-Match": '"pm-2"'}, 412),
        ({"If-Match": 'W/"pm-1"'}, 412),
        (FIRST, 412),
        ({"If-Match": "pm-1"}, 400),
    ],
    ids=["none", "any", "other", "newer", "weak", "first", "bare"],
)
async def test_a_write_must_name_the_revision_it_follows(
    desk: Desk, headers: dict[str, str], status: int
) -> None:
    await desk.write(0, FULL, expect=201)
    sent: list[tuple[str, str, Body]] = [
        ("PUT", "/postmortem", {"content": {"summary": "Mine"}}),
        ("POST", "/postmortem/transitions", {"to": "in_review"}),
        ("POST", "/postmortem/restore", {"rev": 1}),
    ]
    for method, path, body in sent:
        answer = await desk.send(method, path, expect=status, json=body, headers=headers)
        assert (answer.headers.get("etag") == '"pm-1"') == (status == 412)
    assert (await desk.get("/postmortem"))["rev"] == 1


async def test_what_is_not_there_cannot_be_followed(desk: Desk) -> None:
    await desk.write(1, FULL, expect=412)
    await desk.move(1, "in_review", expect=412)
    await desk.move(0, "in_review", expect=409)
    answer = await desk.send(
        "POST", "/postmortem/restore", expect=422, json={"rev": 1}, headers=FIRST
    )
    assert answer.json()["errors"][0]["pointer"] == "/rev"


async def test_of_two_concurrent_writers_one_wins_and_one_gets_412(desk: Desk) -> None:
    for rev in range(3):
        answers: list[httpx2.Response] = []

        async def put(
            text: str, *, rev: int = rev, answers: list[httpx2.Response] = answers
        ) -> None:
            body = {"content": {"summary": text}}
            answers.append(
                await desk.service.client.put(
                    f"{desk.path}/postmortem", json=body, headers=desk.headers | after(rev)
                )
            )

        async with anyio.create_task_group() as group:
            for writer in ("Ada", "Bob"):
                group.start_soon(put, f"{writer} {rev}")
        assert sorted(it.status_code for it in answers) == [200 if rev else 201, 412]
        assert {it.headers["etag"] for it in answers} == {f'"pm-{rev + 1}"'}
    listed = (await desk.get("/postmortem/revisions"))["items"]
    assert [it["rev"] for it in listed] == [3, 2, 1]


async def test_what_is_larger_than_a_row_may_be_is_refused_in_words(desk: Desk) -> None:
    most = {"went_poorly": ["x" * 20_000] * 26}
    await desk.write(0, most, expect=201)
    answer = await desk.write(1, {"went_poorly": ["ä" * 20_000] * 26}, expect=422)
    assert answer.json()["errors"][0]["pointer"] == "/content"
    # Numbers are stored as they are read, not as they were written: these would not fit.
    tiny = {"quantities": [{"name": "q", "value": 5e-324}] * 50}
    answer = await desk.write(1, {"impact": tiny, "went_poorly": ["x" * 20_000] * 26}, expect=422)
    assert (await desk.get("/postmortem"))["rev"] == 1


async def test_revisions_are_paged_without_a_gap_while_others_are_added(desk: Desk) -> None:
    await desk.write(0, {"summary": "0"}, expect=201)
    for rev in range(1, 5):
        await desk.write(rev, {"summary": str(rev)})
    seen: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        page = await desk.get("/postmortem/revisions", limit=2, **cursor)
        seen += [it["rev"] for it in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
        await desk.write(5 + len(seen) // 2 - 1, {"summary": f"later {len(seen)}"})
    assert seen == [5, 4, 3, 2, 1]
    other = await desk_of(desk.service)
    await other.send("GET", "/postmortem/revisions", expect=400, params={"limit": 2, **cursor})


async def test_an_old_revision_is_shown_as_it_was(desk: Desk) -> None:
    await desk.write(0, {"summary": "One"}, expect=201)
    await desk.write(1, {"summary": "Two"})
    assert (await desk.get("/postmortem/revisions/1"))["content"]["summary"] == "One"
    for path in ("3", "0", "x", "01"):
        await desk.send("GET", f"/postmortem/revisions/{path}", expect=404)


async def test_every_revision_leaves_its_audit_row_and_can_never_change(
    desk: Desk, service: Service
) -> None:
    await desk.publish(FULL)
    rows = await service.database.fetch(
        "select detail::text from audit_log where action = 'postmortem.write' and incident_id = $1 order by seq",
        desk.incident["id"],
    )
    assert [row[0] for row in rows] == [
        '{"to": "draft", "rev": 1, "from": null}',
        '{"to": "in_review", "rev": 2, "from": "draft"}',
        '{"to": "published", "rev": 3, "from": "in_review"}',
    ]


async def test_a_repeated_move_with_a_key_is_one_move(desk: Desk) -> None:
    await desk.write(0, FULL, expect=201)
    request = {"json": {"to": "in_review"}, "headers": after(1) | {"Idempotency-Key": "review"}}
    first, again = [
        await desk.send("POST", "/postmortem/transitions", expect=201, **request) for _ in range(2)
    ]
    assert again.content == first.content
    assert again.headers["Idempotency-Replayed"] == "true"


async def test_an_archived_incident_takes_no_revision(service: Service) -> None:
    desk = await desk_of(service, "admin")
    await desk.write(0, FULL, expect=201)
    await desk.send("DELETE", expect=204, headers={"If-Match": '"inc-1"'})
    await desk.write(1, {"summary": "Late"}, expect=409)
    assert (await desk.get("/postmortem"))["rev"] == 1


FOLLOWING = {
    "draft": {"in_review", "waived"},
    "in_review": {"published", "draft", "waived"},
    "published": {"draft"},
    "waived": {"draft"},
}
steps = st.lists(
    st.tuples(st.just("write"), st.sampled_from(["", "One", "Two"]))
    | st.tuples(st.just("move"), st.sampled_from(list(FOLLOWING)))
    | st.tuples(st.just("restore"), st.integers(1, 4)),
    min_size=3,
    max_size=10,
)


@dataclass
class Told:
    """What the revisions must be, oldest first: their states and summaries."""

    desk: Desk
    revisions: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    async def write(self, text: str) -> None:
        expect = 200 if self.revisions else 201
        answer = await self.desk.write(
            len(self.revisions), {**FULL, "summary": text}, expect=expect
        )
        self._add(text, answer)

    async def move(self, to: str) -> None:
        if not self.revisions:
            return
        state, text = self.revisions[-1]
        may = to in FOLLOWING[state] and not (to == "published" and not text)
        expect = 200 if to == state else 201 if may else 409
        await self.desk.move(len(self.revisions), to, expect=expect, message="So be it")
        if expect == 201:
            self.revisions.append((to, text))

    async def restore(self, rev: int) -> None:
        count = len(self.revisions)
        if rev > count:
            return
        text = self.revisions[rev - 1][1]
        expect = 200 if text == self.revisions[-1][1] else 201
        answer = await self.desk.send(
            "POST", "/postmortem/restore", expect=expect, json={"rev": rev}, headers=after(count)
        )
        old = await self.desk.get(f"/postmortem/revisions/{rev}")
        assert answer.json()["content"] == old["content"]
        assert answer.json()["restored_from"] == (
            rev if expect == 201 else answer.json()["restored_from"]
        )
        self._add(text, answer)

    def _add(self, text: str, answer: httpx2.Response) -> None:
        state, now = self.revisions[-1] if self.revisions else ("draft", None)
        if text != now:
            self.revisions.append(("in_review" if state == "in_review" else "draft", text))
        assert answer.headers["etag"] == f'"pm-{len(self.revisions)}"'


@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tries=steps)
async def test_whatever_is_tried_the_revisions_are_a_chain_without_gaps(
    service: Service, tries: list[tuple[str, Any]]
) -> None:
    told = Told(await desk_of(service))
    for name, value in tries:
        await getattr(told, name)(value)
    listed = (await told.desk.get("/postmortem/revisions", limit=200))["items"]
    numbered = [(at, state) for at, (state, _) in enumerate(told.revisions, 1)]
    assert [(it["rev"], it["status"]) for it in reversed(listed)] == numbered
