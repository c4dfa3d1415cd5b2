"""Reads everything back through the API, as incidents and the facts behind them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from chaos.history import Action, Stored
from postfacta_lab.durability import Fact

__all__ = ["Reading", "read_all"]

_PAGE = "200"


@dataclass(frozen=True, slots=True)
class Reading:
    """What is stored.

    Attributes:
        stored: Every exercise.
        orphans: Incidents that facts refer to, and that are not there.
    """

    stored: tuple[Stored, ...]
    orphans: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Stands for all of it: two readings of a service at rest have the same."""
        return hashlib.sha256(repr(sorted(map(repr, self.stored))).encode()).hexdigest()


def read_all(url: str, token: str) -> Reading:
    """Read all exercises, and the audit log.

    Raises:
        httpx2.HTTPError: It cannot be read.
        RuntimeError: What is answered is not what is stored now.
    """
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=url, headers=headers, timeout=30.0) as client:
        # The log first: what it refers to must be there afterwards, also while others write.
        entries = [
            it for it in _pages(client, "/api/v1/audit", {}) if it["incident_id"] is not None
        ]
        incidents = list(_pages(client, "/api/v1/incidents", {"kind": "exercise"}))
    facts: dict[str, list[Mapping[str, Any]]] = {}
    for entry in reversed(entries):  # it comes newest first
        facts.setdefault(entry["incident_id"], []).append(entry)
    stored = tuple(_stored(incident, facts.pop(incident["id"], [])) for incident in incidents)
    return Reading(stored, tuple(facts))


def _pages(client: httpx2.Client, path: str, query: Mapping[str, str]) -> Iterator[Any]:
    cursor: str | None = ""
    while cursor is not None:
        params = {**query, "limit": _PAGE, **({"cursor": cursor} if cursor else {})}
        answer = client.get(path, params=params).raise_for_status()
        if "age" in answer.headers:
            raise RuntimeError(f"{path} is answered from memory: the database is away")
        page = answer.json()
        yield from page["items"]
        cursor = page["next_cursor"]


def _stored(incident: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> Stored:
    return Stored(
        subject=incident["title"],
        status=incident["status"],
        description=incident["description"],
        version=incident["version"],
        facts=tuple(_fact(entry, incident, entries) for entry in entries),
    )


def _fact(
    entry: Mapping[str, Any], incident: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
) -> Fact:
    match entry["action"]:
        case "incident.create":
            # The first change tells what was there before it; without one nothing has changed.
            changed = [
                it["detail"]["description"][0]
                for it in entries
                if it["action"] == "incident.change"
            ]
            return Fact(
                Action.CREATE, f"{incident['severity']} {(changed or [incident['description']])[0]}"
            )
        case "incident.change":
            return Fact(Action.CHANGE, entry["detail"]["description"][1])
        case _:
            return Fact(Action.MOVE, f"{entry['detail']['from']}>{entry['detail']['to']}")
