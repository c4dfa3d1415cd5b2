"""A PostFacta out of reach of all faults.

What the day's alerts tell it becomes the timeline of an incident.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import httpx2

from chaos.alertmanager import told_too
from chaos.gameday.judge import Result
from chaos.stack import Stack

__all__ = ["Keeper", "Kept"]

_AT_ONCE = 200  # Signals that are attached by one request.
_SUMMARY = (
    "Faults were caused on purpose, one after the other, and users asked and wrote all the while."
)


@dataclass(frozen=True, slots=True)
class Kept:
    """The incident that a day leaves behind.

    Attributes:
        markdown: All of it, for people.
        document: The same as data.
    """

    markdown: str
    document: Mapping[str, Any]

    def as_json(self) -> dict[str, object]:
        """Summarise its timeline."""
        timeline = self.document["timeline"]
        return {"entries": len(timeline["entries"]), "digest": timeline["digest"]}


class Keeper:
    """One more service with a database of its own; a context manager.

    Args:
        folder: Where everything is written; must be open to all users.
        template: What `chaos.stack.prepare` made.

    Attributes:
        config: An Alertmanager's configuration: what is deployed, which tells this service too.
        secrets: What that needs besides the deployed one's addresses.
    """

    config: Path
    secrets: Mapping[str, str]

    def __init__(self, folder: Path, template: Path) -> None:
        self._stack = Stack(folder / "keeper", template, instances=1)
        self.config = folder / "alertmanager-told.yml"
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        self._closing.enter_context(self._stack)
        headers = {"Authorization": f"Bearer {self._stack.token}"}
        client = httpx2.Client(base_url=self._stack.url, headers=headers, timeout=30.0)
        self._client = self._closing.enter_context(client)
        self.config.write_text(json.dumps(told_too(self._stack.url)))
        machine = {"name": "Alertmanager", "scopes": ["signals:write"], "source": "alertmanager"}
        self.secrets = {"postfacta_token": self._send("POST", "/api/v1/tokens", machine)["secret"]}
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def conclude(self, results: Sequence[Result], began: datetime) -> Kept:
        """Record the day as an incident: what was done, and every alert that was sent.

        Args:
            results: Of all rows.
            began: When the day did.
        """
        new = {
            "title": f"Game day of {began:%Y-%m-%d}",
            "description": _SUMMARY,
            "severity": "LOW",
            "kind": "exercise",
            "services": ["postfacta"],
            "declared_at": began.isoformat(),
        }
        incident = self._send("POST", "/api/v1/incidents", new)
        path = f"/api/v1/incidents/{incident['id']}"
        signals = list(self._signals())
        for first in range(0, len(signals), _AT_ONCE):
            self._send("POST", f"{path}/signals", {"ids": signals[first : first + _AT_ONCE]})
        for at, words in _told(results, began):
            note = {"kind": "note", "body": words, "occurred_at": at.isoformat()}
            self._send("POST", f"{path}/annotations", note)
        content = {"content": {"summary": _summary(results)}}
        self._send("PUT", f"{path}/postmortem", content, {"If-None-Match": "*"})
        markdown = self._client.get(f"{path}/export", params={"format": "md"})
        return Kept(markdown.raise_for_status().text, self._send("GET", f"{path}/export"))

    def _signals(self) -> Iterator[str]:
        query: dict[str, str] = {"attached": "false", "limit": "200"}
        while True:
            page = self._client.get("/api/v1/signals", params=query).raise_for_status().json()
            yield from (it["id"] for it in page["items"])
            if page["next_cursor"] is None:
                return
            query["cursor"] = page["next_cursor"]

    def _send(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        answer = self._client.request(method, path, json=body, headers=headers)
        if answer.is_error:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        said: dict[str, Any] = answer.json()
        return said


def _told(results: Sequence[Result], began: datetime) -> Iterator[tuple[datetime, str]]:
    for it in results:
        if it.course is not None:
            yield began + timedelta(seconds=it.course.caused), f"Caused {it.name}: {it.what}"
            yield began + timedelta(seconds=it.course.mended), f"Mended {it.name}"


def _summary(results: Sequence[Result]) -> str:
    lines = [
        f"- **{it.name}**: {it.verdict}{''.join(f'; {why}' for why in it.reasons)}"
        for it in results
    ]
    return "\n".join([_SUMMARY, "", *lines])
