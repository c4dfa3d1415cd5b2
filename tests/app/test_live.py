"""Open pages are notified that an incident changed: those of people who may see it, and no other."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest

from postfacta_app import live
from postfacta_core.asgi._types import Message
from tests.app.desk import Desk, desk_of
from tests.app.live import PATCH_JSON, Service, in_process
from tests.kit.waiting import until

ANY = {"If-Match": "*"}
NEW = {"If-None-Match": "*"}


@pytest.fixture
async def service(app_database_dsn: str) -> AsyncGenerator[Service]:
    async with in_process(app_database_dsn) as running:
        yield running


class Watcher:
    """A client of a stream.

    Attributes:
        status: Of the response; 0 before.
        text: What came of the body.
        has_ended: Whether the server ended it.
    """

    def __init__(self) -> None:
        self.status = 0
        self.text = ""
        self.has_ended = False

    @property
    def changes(self) -> int:
        return self.text.count("event: changed")

    @property
    def last_id(self) -> str:
        return self.text.rpartition("id: ")[2].partition("\n")[0]

    def has_more_than(self, changes: int) -> bool:
        return self.changes > changes

    async def send(self, message: Message) -> None:
        self.status = message.get("status", self.status)
        self.text += message.get("body", b"").decode()
        self.has_ended = message["type"] == "http.response.body" and not message.get("more_body")


@asynccontextmanager
async def watching(
    desk: Desk, *, last_id: str = "", method: str = "GET"
) -> AsyncGenerator[Watcher]:
    """Open the stream of an incident, and leave it after the block."""
    headers = {"accept": "text/event-stream", **desk.headers}
    if last_id:
        headers["last-event-id"] = last_id
    path = f"/incidents/{desk.ref}/events"
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("192.0.2.7", 4711),
        "server": ("localhost", 80),
    }
    watcher = Watcher()
    leaves = anyio.Event()
    is_read = False

    async def receive() -> Message:
        nonlocal is_read
        if is_read:
            await leaves.wait()
            return {"type": "http.disconnect"}
        is_read = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.service.app, scope, receive, watcher.send)
        await until(lambda: watcher.text or watcher.has_ended)
        yield watcher
        leaves.set()


async def note(desk: Desk, text: str = "It is the cache") -> None:
    await desk.send("POST", "/annotations", expect=201, json={"kind": "note", "body": text})


async def change(desk: Desk, fields: Mapping[str, Any]) -> None:
    headers = {"Content-Type": PATCH_JSON, "If-Match": "*"}
    await desk.send("PATCH", expect=200, json=fields, headers=headers)


async def test_each_kind_of_write_is_announced_to_its_incident_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_PAUSE", 0.01)
    desk = await desk_of(service)
    other = await desk_of(service)
    link = {"to": other.ref, "type": "related"}
    action = {"type": "prevent", "title": "Alert on it"}
    draft = {"content": {"summary": "The cache"}}
    async with watching(desk) as watcher, watching(other) as beside:
        writes = (
            partial(note, desk, "It is the cache"),
            partial(change, desk, {"severity": "LOW"}),
            partial(desk.send, "POST", "/transitions", expect=201, json={"to": "RESOLVED"}),
            partial(desk.send, "PUT", "/labels", expect=200, json={"labels": ["dns"]}, headers=ANY),
            partial(desk.send, "POST", "/links", expect=201, json=link),
            partial(desk.send, "DELETE", f"/links/{other.ref}/related", expect=204),
            partial(desk.send, "POST", "/action-items", expect=201, json=action),
            partial(desk.send, "PUT", "/postmortem", expect=201, json=draft, headers=NEW),
        )
        await until(lambda: watcher.last_id.startswith("20"))  # It was declared.
        for write in writes:
            former = watcher.changes
            await write()
            await until(partial(watcher.has_more_than, former))
        await note(other)
        await until(lambda: other.incident["id"] in beside.text)
        assert desk.incident["id"] not in beside.text
        assert other.incident["id"] not in watcher.text
        assert "cache" not in watcher.text


async def test_who_returns_gets_what_was_missed_and_who_missed_nothing_gets_nothing(
    service: Service,
) -> None:
    desk = await desk_of(service)
    async with watching(desk) as watcher:
        await note(desk)
        await until(lambda: watcher.changes == 1)
    await note(desk)
    async with watching(desk, last_id=watcher.last_id) as returned:
        await until(lambda: returned.changes == 1)
    async with watching(desk, last_id=returned.last_id) as again:
        assert again.changes == 0
    async with watching(desk, last_id="2026-01-01T00:00:00+00:00/forged") as returned:
        await until(lambda: "event: gap" in returned.text)


async def test_what_became_private_is_not_announced_and_its_streams_end(service: Service) -> None:
    desk = await desk_of(service)
    viewer = desk.seen_by(await service.as_role("viewer"))
    admin = desk.seen_by(await service.as_role("admin"))
    async with watching(viewer) as watcher:
        await change(admin, {"visibility": "private"})
        await note(admin)
        await until(lambda: watcher.has_ended)
        assert watcher.changes == 0
        assert re.search(r"retry: \d+\n\n\Z", watcher.text)
    async with watching(viewer) as watcher:
        assert watcher.status == 404
    async with watching(admin) as watcher:
        await note(admin)
        await until(lambda: watcher.changes == 1)


async def test_the_stream_of_a_disabled_user_ends(service: Service) -> None:
    desk = await desk_of(service)
    user = await service.person("viewer")
    viewer = desk.seen_by(await service.bearer(user))
    admin = await service.as_role("admin")
    async with watching(viewer) as watcher:
        answer = await service.client.patch(
            f"/api/v1/users/{user}", json={"disabled": True}, headers={**admin, "If-Match": "*"}
        )
        assert answer.status_code == 200, answer.text
        await until(lambda: watcher.has_ended)
    async with watching(viewer) as watcher:
        assert watcher.status == 401


async def test_a_change_is_found_without_the_connection_that_listens(service: Service) -> None:
    desk = await desk_of(service)
    async with watching(desk) as watcher:
        ended = await service.database.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where query ilike 'listen%' and datname = current_database()"
        )
        assert len(ended) == 1
        await note(desk)
        await until(lambda: watcher.changes == 1)


async def test_a_stream_asked_for_by_head_ends_at_once(service: Service) -> None:
    async with watching(await desk_of(service), method="HEAD") as watcher:
        await until(lambda: watcher.has_ended)
        assert watcher.status == 200
