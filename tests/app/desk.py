"""A responder at work on one incident, and other users of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx2

from tests.app.live import Body, Service

__all__ = ["FIRST", "FULL", "Desk", "desk_of"]

FIRST = {"If-None-Match": "*"}
FULL: Body = {
    "summary": "The checkout was down for an hour.",
    "impact": {"description": "Nobody could pay."},
    "factors": [
        {"slug": "no-canary", "category": "change", "statement": "All servers changed at once."}
    ],
}


@dataclass
class Desk:
    """One incident, and the credentials of a user."""

    service: Service
    headers: dict[str, str]
    incident: Body

    @property
    def path(self) -> str:
        """Where the incident is."""
        return f"/api/v1/incidents/{self.incident['id']}"

    @property
    def ref(self) -> str:
        """Its reference, such as `INC-1`."""
        return f"INC-{self.incident['number']}"

    async def send(
        self, method: str, path: str = "", *, expect: int, **request: Any
    ) -> httpx2.Response:
        """Send a request, and see that it is answered so.

        A path that begins with `/api` is taken as it is.
        """
        headers = {**self.headers, **request.pop("headers", {})}
        path = path if path.startswith("/api") else self.path + path
        answer = await self.service.client.request(method, path, headers=headers, **request)
        assert answer.status_code == expect, answer.text
        return answer

    async def get(self, path: str = "", **query: Any) -> Any:
        """Read JSON."""
        return (await self.send("GET", path, expect=200, params=query)).json()

    async def write(
        self, rev: int, content: Body, *, expect: int = 200, **fields: str
    ) -> httpx2.Response:
        """Write the revision that follows this one; 0 is before the first."""
        body = {"content": content, **fields}
        return await self.send("PUT", "/postmortem", expect=expect, json=body, headers=after(rev))

    async def move(self, rev: int, to: str, *, expect: int = 201, **fields: str) -> httpx2.Response:
        """Bring the post-mortem from this revision to another state."""
        body = {"to": to, **fields}
        return await self.send(
            "POST", "/postmortem/transitions", expect=expect, json=body, headers=after(rev)
        )

    async def publish(self, content: Body) -> int:
        """Write a post-mortem and publish it; return the number of the last revision."""
        await self.write(0, content, expect=201)
        await self.move(1, "in_review")
        await self.move(2, "published")
        return 3

    async def add_action(self, **fields: object) -> Body:
        """Create an action item."""
        body = {"type": "prevent", "title": "Try one server first", **fields}
        made: Body = (await self.send("POST", "/action-items", expect=201, json=body)).json()
        return made

    def seen_by(self, headers: dict[str, str]) -> Desk:
        """Return the same incident for another user."""
        return Desk(self.service, headers, self.incident)


def after(rev: int) -> dict[str, str]:
    """Give the precondition of a write that follows a revision."""
    return {"If-Match": f'"pm-{rev}"'} if rev else FIRST


async def desk_of(service: Service, role: str = "responder", **fields: object) -> Desk:
    """Record an incident as a new user."""
    headers = await service.as_role(role)
    return Desk(service, headers, await service.record(headers, **fields))
