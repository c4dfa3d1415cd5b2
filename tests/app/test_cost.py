"""What a plain read costs is counted in frames that are entered: it may only become less."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from postfacta_core.asgi._types import Message, Scope
from tests.app.live import NEW, in_process

# Of the app and what it calls; the ways to the handler and to the database are counted with the
# core.
_OURS = ("/postfacta_adapters/", "/postfacta_web/", "/postfacta_app/", "/starlette/", "/pydantic/")
_MOST = 102


async def test_a_read_of_one_incident_enters_few_frames(shared_app_dsn: str) -> None:
    async with in_process(shared_app_dsn) as service:
        admin = await service.as_role("admin")
        made = (await service.client.post("/api/v1/incidents", json=NEW, headers=admin)).json()
        path = f"/api/v1/incidents/INC-{made['number']}"
        headers = [
            (name.lower().encode(), text.encode())
            for name, text in {"Host": "localhost", **admin}.items()
        ]
        entered, sent = 0, list[Message]()

        async def receive() -> Message:
            # Late requests ask for it before they begin, to see whether the client has left.
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        def count(frame: FrameType, event: str, _: Any) -> None:
            nonlocal entered
            entered += event == "call" and any(part in frame.f_code.co_filename for part in _OURS)

        found: list[int] = []
        for _ in range(8):  # Some things are found out only once.
            scope: Scope = {
                "type": "http", "http_version": "1.1", "method": "GET", "path": path, "root_path": "", "query_string": b"",
                "headers": headers, "client": ("127.0.0.1", 50000),
            }  # fmt: skip
            entered = 0
            sys.setprofile(count)
            try:
                await service.app(scope, receive, send)
            finally:
                sys.setprofile(None)
            assert sent[-2]["status"] == 200
            found.append(entered)
    assert min(found) <= _MOST, found
