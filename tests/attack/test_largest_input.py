"""No request holds the loop.

Each route of the table with the largest that it takes, and with what is made to be slow.

What counts is the processor's time that the loop's thread spends between two turns: see `beating`.
A new route is covered by itself, or this module fails until it is said why it is not. That each
route holds with a full database is evidence, and long; in CI the largest are asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Generator, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

import asyncpg
import httpx2
import pytest
from _pytest.mark import ParameterSet

from postfacta_app.web.routes import Rule
from postfacta_embedded import EmbeddedPostgres
from tests.app.live import PATCH_JSON
from tests.app.test_access import table
from tests.attack.beating import Beating, beating
from tests.attack.worlds import MARKS, STORM, Largest, fill, postmortem
from tests.kit.pg import fresh_database

LONGEST_TURN = 0.1
"""Seconds of processor, as of a machine of the usual speed."""

RULES = {f"{rule.method} {rule.path}": rule for rule in table()}
NOT_COVERED = {
    "POST /logout": "ends the token that all others are asked with, and reads no body",
    "POST /signout": "ends the session that sends it, and reads one form field",
}
# What is deleted takes no more, so that comes last.
WRITES = sorted(
    RULES.keys() - NOT_COVERED.keys() - {it for it in RULES if it.startswith("GET ")}, reverse=True
)
WRITES.sort(key=lambda route: route.startswith("DELETE "))

# Queries that make a read as large as it gets, beside none.
QUERIES: dict[str, list[dict[str, str]]] = {
    "GET /api/v1/incidents/{ref}/timeline": [
        {"limit": "2000", "include_hidden": "true"},
        {"limit": "1"},
    ],
    "GET /api/v1/incidents/{ref}/export": [{"format": "md"}, {"format": "json"}],
    "GET /incidents/{ref}/postmortem/revisions/{rev}": [{"against": "1"}],
    "GET /incidents/{ref}": [{"view": "narrative", "hidden": "true"}, {"page": "100"}],
    "GET /insights": [{"phase": "open", "q": "storm"}],
}


LARGEST_WRITES = {
    "POST /api/v0/incidents/start",
    "POST /api/v1/incidents/{ref}/annotations",
    "POST /api/v1/incidents/{ref}/edits",
    "POST /api/v1/incidents/{ref}/signals",
    "POST /api/v1/ingest/alertmanager",
    "POST /api/v1/signals",
    "PUT /api/v1/incidents/{ref}/postmortem",
}
"""Routes that take a large body: see `_legal`."""


def _signal(number: int) -> dict[str, object]:
    links = [
        {"url": f"https://example.org/{number}/{n}/" + "x" * 100, "title": "evidence"}
        for n in range(8)
    ]
    payload = {f"k{n}": f"password=x {n} " * 10 for n in range(35)}
    return {
        "source": "largest", "id": f"{number}", "kind": "change", "title": "t" * 500, "body": "b " * 400,
        "services": [f"service-{n}" for n in range(20)], "links": links, "payload": payload,
    }  # fmt: skip


def _alert(number: int) -> dict[str, object]:
    return {
        "status": "resolved",
        "labels": {"alertname": f"a{number}", **{f"label{n}": "v" * 30 for n in range(20)}},
        "annotations": {"summary": "s" * 200, "description": "d" * 500},
        "startsAt": "2026-02-07T10:00:00Z",
        "endsAt": "2026-02-07T10:05:00Z",
        "generatorURL": "https://example.org/graph",
        "fingerprint": f"{number:016x}",
    }


def _legal(route: str, world: Largest) -> list[object]:
    """Make the largest bodies that a route would accept."""
    note = {"timestamp": "2026-02-07T10:00:00Z", "message": "m" * 10}
    bodies: dict[str, list[object]] = {
        "POST /api/v1/signals": [
            {"items": [_signal(n) for n in range(500)]},
            {"items": [_signal(n) for n in range(300, 500)], "incident": str(world.incident)},
            {"items": [{"kind": "log", "title": "t", "payload": {"a": [0] * 900}} for _ in range(100)]},
        ],
        "POST /api/v1/ingest/alertmanager": [
            {
                "version": "4", "groupKey": "g", "status": "firing", "receiver": "r", "groupLabels": {},
                "commonLabels": {}, "commonAnnotations": {}, "externalURL": "https://example.org",
                "alerts": [_alert(n) for n in range(500)],
            }
        ],
        "POST /api/v1/incidents/{ref}/signals": [{"ids": [str(world.signal)] * 500}],
        "PUT /api/v1/incidents/{ref}/postmortem": [
            {"content": postmortem(MARKS)},
            {"content": postmortem("- a\n" * 495)},
        ],
        "POST /api/v0/incidents/start": [
            {
                "title": "Storm", "description": "A storm of notes", "reporter": "ada", "severity": "HIGH",
                "notes": [note] * 12_000,
            }
        ],
        "POST /api/v1/incidents/{ref}/edits": [
            {"op": "clock_offset", "source": "ci/1", "value": {"ms": 1000}, "reason": "w" * 2_000}
        ],
        "POST /api/v1/incidents/{ref}/annotations": [{"kind": "note", "body": "<&" * 5_000}],
    }  # fmt: skip
    return bodies.get(route, [])


def _hostile(size: int) -> Iterator[bytes]:
    """Make texts of this length that are slow to read, or to refuse."""
    yield b'{"items":[' + b"{}," * ((size - 20) // 3) + b"{}]}"
    yield b"[" * size
    keys = ",".join(f'"k{n}":{n}' for n in range(min(90_000, size // 16)))
    yield b"{" + keys.encode() + b"}"
    ids = ",".join(f'"{n}"' for n in range(min(90_000, size // 10)))
    yield b'{"ids":[' + ids.encode() + b"]}"
    yield json.dumps({"title": "<&\0" * (size // 10), "body": "[" * (size // 3)}).encode()
    yield b'{"description":"' + b'\\"' * (size // 2 - 20) + b'"}'


def _hostile_forms(size: int) -> Iterator[bytes]:
    yield b"a=1&" * (size // 4)
    text = "<&\r\n" * (size // 24)
    yield urlencode(dict.fromkeys(("title", "body", "message", "summary", "value"), text)).encode()[
        :size
    ]


@dataclass(frozen=True)
class Attack:
    """A service that holds the largest there is."""

    beating: Beating
    world: Largest
    client: httpx2.Client

    def send(
        self,
        rule: Rule,
        *,
        body: bytes = b"",
        kind: str = "",
        query: dict[str, str] | None = None,
        version: str = "*",
    ) -> httpx2.Response:
        """Send one request, and see that the loop went on meanwhile."""
        names = {
            "{ref}": str(self.world.incident),
            "{id:uuid}": str(self.world.incident),
            "{id}": str(self.world.action if "action" in rule.path else self.world.signal),
            "{root}": str(self.world.remark),
            "{rev}": "2",
            "{section}": "went_well",
            "{target}": "INC-2",
            "{type}": "related",
            "{slug}": "validation",
            "{mapping}": "absent",
        }
        path = rule.path
        for name, value in names.items():
            path = path.replace(name, value)
        headers = {"If-Match": version, **({"Content-Type": kind} if kind else {})}
        self.beating.beat()
        answer = self.client.request(rule.method, path, params=query, content=body, headers=headers)
        stalls = [self.beating.beat().stall]
        assert answer.status_code < 500, answer.text[:500]
        # One may be the machine's mood; what the code does, it does each time, if it does the same
        # again.
        while len(stalls) < 4 and min(stalls) > LONGEST_TURN:
            again = self.client.request(
                rule.method, path, params=query, content=body, headers=headers
            )
            stalls.append(self.beating.beat().stall)
            assert again.status_code == answer.status_code, f"{rule.method} {path}: {stalls}"
        assert min(stalls) <= LONGEST_TURN, (
            f"{rule.method} {path}, {len(body)} bytes: {answer.text[:100]}"
        )
        return answer


async def _fill(dsn: str) -> Largest:
    database = await asyncpg.connect(dsn, timeout=10)
    try:
        return await fill(database, storm=STORM - 500)  # So that some can still be attached.
    finally:
        await database.close()


@pytest.fixture(scope="module")
def attack(
    programs: None, postgres_server: EmbeddedPostgres, app_template: str
) -> Generator[Attack]:
    """Run a service on a database that is full."""
    with fresh_database(postgres_server, app_template) as dsn:
        world = asyncio.run(_fill(dsn))
        with beating(dsn) as running, httpx2.Client(base_url=running.url, timeout=120) as client:
            client.headers.update(world.headers)
            running.wait_ready(client)
            yield Attack(running, world, client)


def _smoke(routes: Iterable[str], largest: Collection[str]) -> list[ParameterSet]:
    """Mark as long what is not among the largest."""
    return [
        pytest.param(route, marks=() if route in largest else pytest.mark.long) for route in routes
    ]


@pytest.mark.parametrize("route", _smoke((it for it in RULES if it.startswith("GET ")), QUERIES))
def test_no_read_holds_the_loop(route: str, attack: Attack) -> None:
    for query in [{}, *QUERIES.get(route, [])]:
        attack.send(RULES[route], query=query)


@pytest.mark.parametrize("route", _smoke(WRITES, LARGEST_WRITES))
def test_no_write_holds_the_loop(route: str, attack: Attack) -> None:
    rule = RULES[route]
    is_form = not (rule.path.startswith("/api/") or rule.path in {"/login", "/register"})
    kind = "application/x-www-form-urlencoded" if is_form else "application/json"
    kind = PATCH_JSON if rule.method == "PATCH" else kind
    size = rule.route_class.limits.max_body_bytes
    for body in _hostile_forms(size) if is_form else _hostile(size):
        attack.send(rule, body=body[:size], kind=kind)
    largest = _legal(route, attack.world)
    assert bool(largest) == (route in LARGEST_WRITES)
    for legal in largest:
        version = "*"
        if "postmortem" in route:
            version = attack.send(RULES["GET /api/v1/incidents/{ref}/postmortem"]).headers["etag"]
        answer = attack.send(rule, body=json.dumps(legal).encode(), kind=kind, version=version)
        assert answer.status_code in {200, 201}, answer.text[:500]


def test_each_route_is_covered_or_said_not_to_be() -> None:
    assert NOT_COVERED.keys() < RULES.keys()
    assert QUERIES.keys() < RULES.keys()


def test_a_route_that_computes_on_the_loop_is_seen(attack: Attack) -> None:
    attack.beating.beat()
    attack.client.get("/burn")
    assert attack.beating.beat().stall > LONGEST_TURN
